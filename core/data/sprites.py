"""Sprites: images whose mutual information between two views is known exactly.

An image shows one sprite on a background whose brightness rises in one direction. The *content*
(shape, colour, size, row, column, and optionally the background's hue and its direction of
brightness) is uniform over M combinations. The *nuisance* (rotation, place in the cell, place in
each band of hues or directions, brightness, pixel noise) is drawn afresh for each view. Bands
do not overlap, sizes differ by a fixed ratio, and a sprite never leaves its cell. So any view
determines the content without error, and

    I(V1; V2) = H(content) = log M   nats.

B = images on this process, n = images in the split, S = image side, F = factors of the content.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from core.batch import Batch
from core.checks import counts
from core.data.source import Sampler, Source, Truth
from core.randomness import KeyedRNG
from core.transfer import send

SIDE = 32
SHAPES = ("disc", "ring", "triangle", "cross")
# largest radius and largest offset, in cells; ratio of consecutive sizes
RADIUS, JITTER, SHRINK = 0.42, 0.06, 0.68
LEAST_RADIUS = 2.9  # pixels; smaller shapes can not be told apart
BAND = 0.4  # width of a band of hues or directions, as a share of the bands' distance
AT_ONCE = 2048  # images rendered at a time
TINT = 0.5  # saturation of a coloured background; sprites have 1, so they stand out


@dataclass
class SpritesConfig:
    """The number of values of each factor, and the sizes of the splits."""

    section: ClassVar[str] = "sprites"  # the keys are data.SECTION.*
    shapes: int = 4  # number of shapes that a sprite can have
    colours: int = 4  # number of colours that a sprite can have
    sizes: int = 2  # number of sizes that a sprite can have
    grid: int = 3  # the sprite lies in one of grid x grid cells
    backgrounds: int = 1  # number of hues of the background; 1 = grey
    # number of directions in which the background brightens; 1 = any direction, drawn afresh for
    # each view
    gradients: int = 1
    train: int = 65536  # number of training images
    validation: int = 8192  # number of validation images
    test: int = 8192  # number of test images

    def __post_init__(self) -> None:
        most = {"shapes": len(SHAPES), "colours": 12, "sizes": 4, "grid": 4}
        most |= {"backgrounds": 16, "gradients": 16}
        counts(self, f"{self.section}.", **most, train=2**24, validation=2**24, test=2**24)
        smallest = SIDE / self.grid * RADIUS * SHRINK ** (self.sizes - 1)
        if smallest < LEAST_RADIUS:
            raise ValueError(
                f"{self.section}.sizes: {self.sizes} sizes on a grid of {self.grid} leave a sprite"
                f" a radius of {smallest:.1f} pixels, but shapes can be told apart only from"
                f" {LEAST_RADIUS} pixels; use fewer sizes or a smaller grid"
            )

    @property
    def factors(self) -> dict[str, int]:
        """Label column -> number of values. A background that is only nuisance has no column."""
        sprite = {
            "shape": self.shapes,
            "colour": self.colours,
            "size": self.sizes,
            "row": self.grid,
            "column": self.grid,
        }
        background = {"background": self.backgrounds, "gradient": self.gradients}
        return sprite | {name: count for name, count in background.items() if count > 1}

    @property
    def combinations(self) -> int:
        """M, the number of contents."""
        return math.prod(self.factors.values())


class Sprites(Source):
    """One split. The content of image i is a function of (seed, split, i); each view renders it.

    "trainval" holds the contents of "train", then those of "val". Splits never share nuisance,
    because the key of its random numbers contains the name of the split.
    """

    Config, name = SpritesConfig, "sprites"
    shape = (3, SIDE, SIDE)
    rendered, augmentation = True, "fresh rendering"

    def __init__(self, config: SpritesConfig, split: str, seed: int):
        self.config, self.split, self.seed, self.factors = config, split, seed, config.factors
        self.combinations = config.combinations
        best = functools.partial(best_infonce, combinations=config.combinations)
        self.truth = Truth(math.log(config.combinations), best)
        self.content = contents("sprites", config, split, seed)

    def __len__(self) -> int:
        return len(self.content)

    def batches(self, order: Sampler, views: int) -> Iterator[Batch]:
        for index, rng in order:
            content, index = send([self.content[index], index], rng.device)
            pictures = tuple(
                render(content, rng.fork(f"{self.split}/view{v}"), self.config)
                for v in range(views)
            )
            yield Batch(pictures, content, index, rng)


def contents(name: str, config: Any, split: str, seed: int) -> Tensor:
    """The contents of a split, int64 [n, F]: uniform and independent factors. `name`: the data set,
    on which the random numbers depend. `config` has `factors` and the sizes of the splits.
    """
    sizes = {"train": config.train, "val": config.validation, "test": config.test}
    parts = []
    for part in ("train", "val") if split == "trainval" else (split,):
        rng = KeyedRNG(seed, 0).fork(f"{name}/{part}")
        columns = [rng.integers(k, count, sizes[part]) for k, count in config.factors.items()]
        parts.append(torch.stack(columns, 1))
    return torch.cat(parts)


def render(content: Tensor, rng: KeyedRNG, config: SpritesConfig) -> Tensor:
    """Contents int64 [B, F] to uint8 images [B, 3, S, S], with nuisance from `rng`. A large batch
    is rendered in equal parts, because floats take many times the memory of the images.
    """
    parts = -(-len(content) // AT_ONCE)
    if parts > 1 and len(content) % parts == 0:
        rows = enumerate(content.chunk(parts))
        return torch.cat([_render(part, rng.part(number, parts), config) for number, part in rows])
    return _render(content, rng, config)


def _render(content: Tensor, rng: KeyedRNG, config: SpritesConfig) -> Tensor:
    u = rng.uniform("nuisance", len(content), 10)
    factor = dict(zip(config.factors, content.unbind(1), strict=True))
    hue = hue_in_band(factor["colour"], config.colours, u[:, 0])
    colour = hue * (0.75 + 0.25 * u[:, 1:2])  # [B, 3]
    cover = coverage(content, 2 * math.pi * u[:, 2], 2 * u[:, 3:5] - 1, config)
    cover = cover[:, None]  # [B, 1, S, S]
    turn, grey, slope, tint = u[:, 5], 0.1 + 0.4 * u[:, 6], 0.3 * u[:, 7], torch.ones_like(colour)
    if {"background", "gradient"} & factor.keys():
        # so that the background shows its hue and its direction, and is never clipped
        grey, slope = 0.25 + 0.25 * u[:, 6], 0.2 + 0.1 * u[:, 7]
    if "gradient" in factor:
        turn = _in_band(factor["gradient"], config.gradients, u[:, 5])
    if "background" in factor:
        hue = hue_in_band(factor["background"], config.backgrounds, u[:, 8])
        tint = 1 - TINT * (1 - hue)  # [B, 3]
    x = (torch.arange(SIDE, device=content.device) + 0.5) / SIDE - 0.5
    angle = 2 * math.pi * turn
    direction = torch.stack([angle.cos() * slope, angle.sin() * slope], 1)
    ramp = grey[:, None, None] + direction[:, :1, None] * x + direction[:, 1:, None] * x[:, None]
    background = ramp[:, None] * tint[:, :, None, None]  # [B, 3, S, S]
    image = background * (1 - cover) + colour[:, :, None, None] * cover
    image.add_(rng.normal("pixels", len(content), 3, SIDE, SIDE), alpha=0.02)
    return image.mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def hue_in_band(value: Tensor, count: int, u: Tensor) -> Tensor:
    """Saturated colours [B, 3] of values [B] on a wheel of `count`, with noise u [B] in [0, 1)."""
    return _hue_to_rgb(_in_band(value, count, u))


def _in_band(value: Tensor, count: int, u: Tensor) -> Tensor:
    """Angles [B] in turns, value / count plus noise u [B] in [0, 1); the bands do not overlap."""
    return (value + BAND * (u - 0.5)) / count


def coverage(content: Tensor, angle: Tensor, offset: Tensor, config: SpritesConfig) -> Tensor:
    """The share of each pixel that the sprite covers, [B, S, S] in [0, 1]; `angle` [B] in radians,
    `offset` [B, 2] in [-1, 1].
    """
    cell = SIDE / config.grid
    radius = cell * RADIUS * SHRINK ** content[:, 2].float()
    # x from the column, y from the row
    centre = (content[:, [4, 3]] + 0.5 + JITTER * offset) * cell
    pixel = torch.arange(SIDE, device=content.device) + 0.5
    dx = (pixel - centre[:, :1])[:, None, :] / radius[:, None, None]
    dy = (pixel - centre[:, 1:])[:, :, None] / radius[:, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    x, y = cos * dx - sin * dy, sin * dx + cos * dy
    signed = torch.empty_like(x)  # distance to the outline in radii; negative inside
    for number in range(config.shapes):
        which = (content[:, 0] == number).nonzero()[:, 0]
        signed[which] = _distance(SHAPES[number], x[which], y[which])
    return (0.5 - signed * radius[:, None, None]).clamp_(0, 1)


def _distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to the outline of a shape inside the unit circle."""
    if shape == "disc":
        return torch.hypot(x, y) - 0.85
    if shape == "ring":
        return (torch.hypot(x, y) - 0.73).abs() - 0.27
    if shape == "triangle":
        s = math.sqrt(0.75)
        return torch.maximum(torch.maximum(s * x + 0.5 * y, -s * x + 0.5 * y), -y) - 0.5
    ax, ay = x.abs(), y.abs()
    return torch.maximum(torch.minimum(ax, ay) - 0.26, torch.maximum(ax, ay) - 1)


def _hue_to_rgb(hue: Tensor) -> Tensor:
    """Fully saturated colours [B, 3] of hues [B] in turns."""
    thirds = torch.arange(3, device=hue.device) * (2 / 3)
    phase = (hue[:, None] + thirds) % 1.0 * 6
    return ((phase - 3).abs() - 1).clamp(0, 1)


def best_infonce(negatives: int, combinations: int) -> float:
    """The largest expected log(K + 1) - L of any critic with K independent negatives, in nats. L is
    the InfoNCE loss.

        log(K + 1) - E log(1 + Binomial(K, 1/M)),   M = `combinations`

    The ideal critic finds the candidates with the anchor's content, but can not tell them apart.
    """
    from scipy.stats import binom  # takes half a second, and training does not need it

    counts = binom(negatives, 1 / combinations)
    low, high = (int(counts.ppf(q)) for q in (1e-15, 1 - 1e-15))
    collisions = torch.arange(max(0, low - 1), min(negatives, high + 1) + 1, dtype=torch.float64)
    weights = torch.from_numpy(counts.pmf(collisions.numpy()))
    expected = float((weights * torch.log1p(collisions)).sum() / weights.sum())
    return math.log(negatives + 1) - expected
