"""Scenes: two sprites side by side with a caption. They test whether an encoder binds attributes to
the right objects.

Each sprite has a shape and a colour; one is on the left, one on the right. A caption tells these
four values ("a red disc left of a blue cross"), so I(image; caption) = log M nats. An encoder that
reads a caption as a bag of words can not tell it from "a blue disc left of a red cross". B = images
on this process, M = combinations.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from core.batch import Batch
from core.checks import counts
from core.data.caption_truth import Telling
from core.data.grammar import COLOURS, SHAPES, spaced
from core.data.source import Sampler, Source, Truth
from core.data.sprites import SIDE, SpritesConfig, best_infonce, contents, coverage, hue_in_band
from core.randomness import KeyedRNG
from core.transfer import send

PICKS = 8  # random numbers that choose the words of a caption
# what is exchanged in a false caption, as an order of the four words
AS_IT_IS = (0, 1, 2, 3)
SWAPS = {"colours": (0, 3, 2, 1), "shapes": (2, 1, 0, 3), "places": (2, 3, 0, 1)}


@dataclass
class ScenesConfig:
    """The number of values of each factor, and the sizes of the splits."""

    shapes: int = 4  # number of shapes that each sprite can have
    colours: int = 4  # number of colours that each sprite can have
    train: int = 65536  # number of training images
    validation: int = 8192  # number of validation images
    test: int = 8192  # number of test images

    def __post_init__(self) -> None:
        most = {"shapes": len(SHAPES), "colours": len(COLOURS)}
        counts(self, "scenes.", **most, train=2**24, validation=2**24, test=2**24)

    @property
    def factors(self) -> dict[str, int]:
        return {
            "left_shape": self.shapes,
            "left_colour": self.colours,
            "right_shape": self.shapes,
            "right_colour": self.colours,
        }


class Scenes(Source):
    """One split. The content of image i is a function of (seed, split, i); each view renders it."""

    Config, name = ScenesConfig, "scenes"
    shape = (3, SIDE, SIDE)
    rendered, augmentation, captioned = True, "fresh rendering", True

    def __init__(self, config: ScenesConfig, split: str, seed: int):
        self.config, self.split, self.seed, self.factors = config, split, seed, config.factors
        combinations = math.prod(self.factors.values())
        self.truth = Truth(math.log(combinations), lambda k: best_infonce(k, combinations))
        self.text_truth = Telling(self.factors, dict.fromkeys(self.factors, 1.0)).truth
        self.content = contents("scenes", config, split, seed)

    def __len__(self) -> int:
        return len(self.content)

    def batches(self, order: Sampler, views: int) -> Iterator[Batch]:
        for index, rng in order:
            told = self.content[index]  # on the CPU, where captions are made
            content, index = send([told, index], rng.device)
            pictures = tuple(
                render(content, rng.fork(f"{self.split}/view{v}"), self.config)
                for v in range(views)
            )
            drawn = rng.on("cpu").fork(f"{self.split}/caption")
            words = drawn.uniform("words", len(told), PICKS).tolist()
            text = tuple(
                caption(row, numbers, self.config)
                for row, numbers in zip(told.tolist(), words, strict=True)
            )
            yield Batch(pictures, content, index, rng, text)

    def contrasts(self, label: Tensor, rng: KeyedRNG) -> dict[str, list[tuple[str, str] | None]]:
        """The true caption and one in which colours, shapes or places are exchanged, in the same
        form and words; None where the false caption would be true.
        """
        words = rng.fork("contrasts").uniform("words", len(label), PICKS).tolist()
        found: dict[str, list[tuple[str, str] | None]] = {}
        for name, order in SWAPS.items():
            found[name] = []
            for row, drawn in zip(label.tolist(), words, strict=True):
                both = (caption(row, drawn, self.config), caption(row, drawn, self.config, order))
                found[name].append(both if [row[place] for place in order] != row else None)
        return found


def caption(
    content: list[int],
    drawn: list[float],
    config: ScenesConfig,
    order: tuple[int, ...] = AS_IT_IS,
) -> str:
    """A caption that tells both sprites. The numbers `drawn`, in [0, 1), choose its words. Another
    `order` of the four words (left shape, left colour, right shape, right colour) makes a false
    caption.
    """
    left = iter(drawn)

    def pick(count: int) -> int:
        return int(next(left) * count)

    tables = (SHAPES, spaced(COLOURS, config.colours)) * 2
    synonyms = [table[value] for table, value in zip(tables, content, strict=True)]
    words = [names[pick(len(names))] for names in synonyms]
    words = [words[place] for place in order]
    here, there = (_thing(shape, hue) for shape, hue in (words[:2], words[2:]))
    style = pick(3)
    if style == 0:
        return f"{here} left of {there}"
    return f"{there} right of {here}" if style == 1 else f"left: {here}, right: {there}"


def _thing(shape: str, hue: str) -> str:
    return f"{'an' if hue[0] in 'aeiou' else 'a'} {hue} {shape}"


def render(content: Tensor, rng: KeyedRNG, config: ScenesConfig) -> Tensor:
    """Contents int64 [B, 4] to uint8 images [B, 3, S, S], with nuisance from `rng`."""
    n, cells = len(content), SpritesConfig(config.shapes, config.colours, sizes=1, grid=2)
    u = rng.uniform("nuisance", n, 16)
    x = (torch.arange(SIDE, device=content.device) + 0.5) / SIDE - 0.5
    angle, slope = 2 * math.pi * u[:, 14], 0.3 * u[:, 15]
    across, down = (angle.cos() * slope)[:, None, None] * x, (angle.sin() * slope)[:, None, None]
    image = ((0.1 + 0.4 * u[:, 13])[:, None, None] + across + down * x[:, None])[:, None]
    for column in (0, 1):
        shape, colour = content[:, 2 * column], content[:, 2 * column + 1]
        drawn = u[:, 6 * column : 6 * column + 6]
        row = (drawn[:, 5] * 2).long()  # one of two rows, as nuisance
        place = torch.stack([shape, colour, torch.zeros_like(row), row], 1)
        place = torch.cat([place, torch.full_like(row, column)[:, None]], 1)
        cover = coverage(place, 2 * math.pi * drawn[:, 2], 2 * drawn[:, 3:5] - 1, cells)[:, None]
        tone = hue_in_band(colour, config.colours, drawn[:, 0]) * (0.75 + 0.25 * drawn[:, 1:2])
        image = image * (1 - cover) + tone[:, :, None, None] * cover
    image = image + 0.02 * rng.normal("pixels", n, 3, SIDE, SIDE)
    return image.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
