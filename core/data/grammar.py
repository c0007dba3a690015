"""A grammar of captions of sprites: what is told, and in which words.

A caption tells some factors of an image ("red triangle") and leaves out others. Synonyms, word
order and the form of the sentence are drawn independently of the image. No two values share a word,
with one exception: a sprite and a background have the same colour words, but the word "background"
follows the colour of a background. So a caption determines what it tells, and the wording carries
no information.
"""

import re
from collections.abc import Callable, Iterator, Mapping

Pick = Callable[[int], int]  # a number of choices -> the chosen one, from 0
Words = tuple[tuple[str, ...], ...]  # for each value of a factor, its synonyms

SHAPES = (("disc", "circle"), ("ring", "loop", "hoop"), ("triangle", "wedge"), ("cross", "plus"))
# the wheel of hues, from red in steps of 30 degrees
COLOURS = (
    ("red", "scarlet", "crimson"),
    ("orange", "tangerine"),
    ("yellow", "golden"),
    ("lime", "chartreuse"),
    ("green", "emerald"),
    ("mint", "jade"),
    ("cyan", "turquoise"),
    ("azure", "cerulean"),
    ("blue", "navy"),
    ("violet", "purple"),
    ("magenta", "fuchsia"),
    ("pink", "rose"),
)
# from the right, clockwise, because y grows downwards
COMPASS = ("east", "southeast", "south", "southwest", "west", "northwest", "north", "northeast")
SIZES: dict[int, Words] = {
    1: (("usual",),),
    2: (("big", "large"), ("small", "little")),
    3: (("big", "large"), ("medium", "middling"), ("small", "little")),
    4: (("big", "large"), ("medium", "middling"), ("small", "little"), ("tiny", "minute")),
}
ROWS: dict[int, Words] = {
    1: (("central",),),
    2: (("top", "upper"), ("bottom", "lower")),
    3: (("top", "upper"), ("middle", "mid"), ("bottom", "lower")),
    4: (("top", "uppermost"), ("upper",), ("lower",), ("bottom", "lowest")),
}
COLUMNS: dict[int, Words] = {
    1: (("halfway",),),
    2: (("left",), ("right",)),
    3: (("left",), ("centre", "center"), ("right",)),
    4: (("leftmost",), ("left",), ("right",), ("rightmost",)),
}
TABLES = {"size": SIZES, "row": ROWS, "column": COLUMNS}
NOUNS = ("thing", "object", "sprite")  # if the shape is not told
LIGHT = "lit from the"
HUES = {"colour": "", "background": "background"}  # factors that share colour words


def spaced(wheel: Words, count: int) -> Words:
    """The names of `count` evenly spaced values on a wheel of names."""
    return tuple(wheel[round(value * len(wheel) / count) % len(wheel)] for value in range(count))


class Grammar:
    """Captions of images whose factors have these numbers of values (`SpritesConfig.factors`)."""

    def __init__(self, counts: Mapping[str, int]):
        self.words: dict[str, Words] = {}
        for factor, count in counts.items():
            if factor == "shape":
                self.words[factor] = SHAPES[:count]
            elif factor in HUES:
                self.words[factor] = spaced(COLOURS, count)
            elif factor == "gradient":
                self.words[factor] = spaced(tuple((name,) for name in COMPASS), count)
            else:
                self.words[factor] = TABLES[factor][count]

    def caption(self, told: Mapping[str, int], pick: Pick) -> str:
        """A caption that tells these factors, in the words that `pick` chooses."""
        word = {}
        for factor, value in told.items():
            synonyms = self.words[factor][value]
            word[factor] = synonyms[pick(len(synonyms))]
        return in_words(word, pick)

    def wordings(self, told: Mapping[str, int]) -> Iterator[tuple[str, float]]:
        """Every caption that tells these factors, and its probability. A text may occur twice."""
        path: list[tuple[int, int]] = []  # (choice, choices) of each pick
        while True:
            number = iter(range(10**6))

            def pick(choices: int, number: Iterator[int] = number) -> int:
                place = next(number)
                if place == len(path):
                    path.append((0, choices))
                return path[place][0]

            text, probability = self.caption(told, pick), 1.0
            for _, choices in path:
                probability /= choices
            yield text, probability
            while path and path[-1][0] + 1 == path[-1][1]:
                path.pop()
            if not path:
                return
            path[-1] = (path[-1][0] + 1, path[-1][1])

    def told(self, text: str) -> dict[str, int]:
        """What a caption of this grammar tells: factor -> value."""
        words = re.findall("[a-z]+", text.lower())
        known = {
            (HUES.get(factor, ""), word): (factor, value)
            for factor, values in self.words.items()
            for value, synonyms in enumerate(values)
            for word in synonyms
        }
        after = [*words[1:], ""]
        places = [
            ("background" if following == "background" else "", word)
            for word, following in zip(words, after, strict=True)
        ]
        return dict(known[place] for place in places if place in known)


def in_words(word: Mapping[str, str], pick: Pick) -> str:
    """A sentence with these words, such as {"shape": "ring", "row": "top"}."""
    noun = word.get("shape") or NOUNS[pick(len(NOUNS))]
    adjectives = [word[factor] for factor in ("size", "colour") if factor in word]
    if len(adjectives) == 2 and pick(2):
        adjectives.reverse()
    place = " ".join(word[factor] for factor in ("row", "column") if factor in word)
    rest = [f"on a {word['background']} background"] if "background" in word else []
    rest += [f"{LIGHT} {word['gradient']}"] if "gradient" in word else []
    style = pick(3)
    if style == 2:  # "top left: red triangle, small"
        size = f", {word['size']}" if "size" in word else ""
        thing = " ".join([word["colour"]] if "colour" in word else []) + f" {noun}"
        return ", ".join([f"{place}: {thing.strip()}{size}".removeprefix(": "), *rest])
    thing = " ".join([*adjectives, noun])
    thing = f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"
    where = [f"{('near', 'at')[pick(2)]} the {place}"] if place else []
    return " ".join([*(["there is"] if style else []), thing, *where, *rest])
