"""Sprites with captions: images and texts whose mutual information is known exactly.

The images are those of `core.data.sprites`. Each caption *tells* (states the value of) each factor
of the content with a known probability, in random words (`core.data.grammar`). So I(image; caption)
has a closed form (`core.data.caption_truth`): it is 0 if nothing is told, and log M if everything
is.

Some combinations of factors may be held out: train and val never show them, test does. B = images
on this process, F = factors of the content, M = combinations.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from core.batch import Batch
from core.data.caption_truth import Telling
from core.data.grammar import COLOURS, COMPASS, Grammar
from core.data.source import Sampler
from core.data.sprites import Sprites, SpritesConfig
from core.errors import nearest
from core.randomness import KeyedRNG

PICKS = 12  # random numbers that choose words; no caption needs more
# with more combinations than this, they are held out at random: then every value of a factor loses
# nearly the same share of its combinations
EVEN = 4096
PROMPTS = 256  # sentences that stand for a value of a factor


@dataclass
class CaptionedSpritesConfig(SpritesConfig):
    """Sprites with the probability that a caption tells a factor."""

    section: ClassVar[str] = "captioned_sprites"
    tell: float = 1.0  # probability that a caption tells a factor; 0 = captions say nothing
    # factors whose probability is not `tell`, such as {colour: 0.5}
    told: dict[str, float] = field(default_factory=dict)
    unseen: float = 0.0  # share of combinations that only the test split shows

    def __post_init__(self) -> None:
        super().__post_init__()
        for factor in self.told:
            if factor not in self.factors:
                said = f"there is no '{factor}'{nearest(factor, self.factors)}"
                raise ValueError(f"{self.section}.told: {said}")
        for key, value in {"tell": self.tell, "unseen": self.unseen, **self.told}.items():
            if not 0 <= value <= 1 or key == "unseen" and value > 0.5:
                most = "0.5" if key == "unseen" else "1"
                place = f"told.{key}" if key in self.told else key
                raise ValueError(f"{self.section}.{place}: must be in [0, {most}], got {value}")
        named = {"backgrounds": len(COLOURS), "gradients": len(COMPASS)}
        for key, names in named.items():
            if (count := getattr(self, key)) > names:
                said = f"captions have words for only {names}, got {count}"
                raise ValueError(f"{self.section}.{key}: {said}")

    @property
    def telling(self) -> Telling:
        """What captions tell."""
        return Telling(self.factors, {f: self.told.get(f, self.tell) for f in self.factors})


def held_out(counts: list[int], share: float, rng: KeyedRNG) -> Tensor:
    """Choose a share of all combinations of factors, and return their indices. `counts`: the number
    of values of each factor. Every pair and every triple of values of different factors loses
    nearly the same share.

    Otherwise the factors would depend on each other in the combinations that are seen. For example,
    there might be few discs among red things at the top. An encoder that learns this would name the
    shapes of unseen combinations wrongly.
    """
    total = math.prod(counts)
    wanted, order = round(share * total), rng.permutation("unseen", total)
    if total > EVEN:
        return order[:wanted]
    values = torch.unravel_index(order, counts)
    # One entry for each choice of 2 or 3 factors. It has three parts. The first gives each
    # combination a code, which stands for its values of these factors. The second counts how many
    # combinations with each code are held out. The third is the number of different codes.
    groups = []
    for size in (2, 3):
        for chosen in itertools.combinations(range(len(counts)), size):
            number = torch.zeros(total, dtype=torch.long)
            for column in chosen:
                number = number * counts[column] + values[column]
            groups.append((number, torch.zeros(total), math.prod(counts[i] for i in chosen)))
    taken = torch.zeros(total)
    for _ in range(wanted):  # hold out the combination whose values have lost the least
        cost = taken.clone()
        for number, lost, several in groups:
            cost += lost[number] * several
        best = int(cost.argmin())
        taken[best] = math.inf
        for number, lost, _ in groups:
            lost[number[best]] += 1
    return order[taken > 0]


class CaptionedSprites(Sprites):
    """One split. Each image has any number of views, and one caption."""

    Config, name = CaptionedSpritesConfig, "captioned_sprites"
    captioned = True
    config: CaptionedSpritesConfig

    def __init__(self, config: CaptionedSpritesConfig, split: str, seed: int):
        super().__init__(config, split, seed)
        self.grammar = Grammar(self.factors)
        self.chance = torch.tensor([config.told.get(f, config.tell) for f in self.factors])
        self.text_truth = config.telling.truth
        rng = KeyedRNG(seed, 0).fork("captioned_sprites")
        self.held = held_out(list(self.factors.values()), config.unseen, rng)
        if len(self.held) and split != "test":
            every = torch.arange(self.combinations)
            self.content = self._seen_only(split, every[~torch.isin(every, self.held)])
            self.truth = self.text_truth = None  # contents are not uniform over all combinations

    def _seen_only(self, split: str, seen: Tensor) -> Tensor:
        """Contents [n, F] that are uniform over the combinations `seen`."""
        counts, parts = list(self.factors.values()), []
        sizes = {"train": self.config.train, "val": self.config.validation}
        for part in ("train", "val") if split == "trainval" else (split,):
            rng = KeyedRNG(self.seed, 0).fork(f"captioned_sprites/{part}")
            number = seen[rng.integers("seen", len(seen), sizes[part])]
            parts.append(torch.stack(torch.unravel_index(number, counts), 1))
        return torch.cat(parts)

    def batches(self, order: Sampler, views: int) -> Iterator[Batch]:
        for index, rng in order:
            (batch,) = super().batches([(index, rng)], views)
            # texts are made from contents and numbers on the CPU, without a copy from the device
            yield batch._replace(text=self.texts(self.content[index], rng.on("cpu")))

    def texts(self, content: Tensor, rng: KeyedRNG, always: int = -1) -> tuple[str, ...]:
        """One caption for each content [B, F]; `rng` chooses what it tells and in which words.
        `content` and `rng` are on the CPU. `always`: the column of a factor that every caption
        tells; -1 for none.
        """
        factors = len(self.chance)
        drawn = rng.fork(f"{self.split}/caption").uniform("words", len(content), factors + PICKS)
        tells = drawn[:, :factors] < self.chance
        if always >= 0:
            tells[:, always] = True
        rows = zip(content.tolist(), tells.tolist(), drawn[:, factors:].tolist(), strict=True)
        return tuple(self._text(*row) for row in rows)

    def _text(self, values: list[int], told: list[bool], choices: list[float]) -> str:
        left = iter(choices)

        def pick(count: int) -> int:
            return int(next(left) * count)

        chosen = zip(self.factors, values, told, strict=True)
        return self.grammar.caption({f: value for f, value, tells in chosen if tells}, pick)

    def prompts(self) -> dict[str, list[list[str]]]:
        """For each value, captions that tell it, and that tell other factors with the same
        probabilities as in training. The captions of two values of a factor differ only in the
        words for these values.
        """
        found = {}
        for column, (factor, count) in enumerate(self.factors.items()):
            if count < 2:
                continue
            rng = KeyedRNG(self.seed, 0).fork(f"prompts/{factor}")
            parts = [rng.integers(k, n, PROMPTS) for k, n in self.factors.items()]
            contents = torch.stack(parts, 1).repeat(count, 1, 1)
            contents[:, :, column] = torch.arange(count)[:, None]
            found[factor] = [list(self.texts(one, rng, column)) for one in contents]
        return found

    def unseen(self, label: Tensor) -> Tensor | None:
        if not len(self.held):
            return None
        number, label = torch.zeros(len(label), dtype=torch.long), label.cpu()
        for column, count in zip(label.T, self.factors.values(), strict=True):
            number = number * count + column
        return torch.isin(number, self.held)
