"""Sprites: images whose mutual information between two views is known exactly.

An image shows one sprite on a background that brightens evenly in one direction. Its *content*
(shape, colour, size, row, column, and where asked for the background's hue and the direction in
which it brightens) is uniform on a product of finite sets, M combinations in all; its *nuisance*
(rotation, place inside the cell, place inside each band of hues or directions, brightness, pixel
noise) is drawn afresh for each view. Bands and margins do not overlap, so the content can be read
from any view without error, and

    I(V1; V2) = H(content) = log M   nats.

B = images on this process, n = images in the split, S = image side, F = factors of the content.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from scipy.stats import binom
from torch import Tensor

from core.batch import Batch
from core.data.source import Sampler, Source, Truth
from core.randomness import KeyedRNG
from core.transfer import send

SIDE = 32
SHAPES = ("disc", "ring", "triangle", "cross")
RADIUS, SHRINK, JITTER = (
    0.42,
    0.68,
    0.06,
)  # largest radius and largest offset in cells; each size is SHRINK of the one above
LEAST_RADIUS = 2.9  # pixels: below it shapes run together
BAND = 0.4  # share of the distance between two hues, or two directions, that one of them fills
# saturation of a background that has a hue: sprites are fully saturated, and so stand out from one
# of their own hue
TINT = 0.5


@dataclass
class SpritesConfig:
    """The sizes of the content's sets, and of the splits."""

    shapes: int = 4
    colours: int = 4
    sizes: int = 2
    grid: int = 3  # cells a side
    backgrounds: int = 1  # hues of the background; 1 = grey
    # directions in which the background brightens; 1 = any direction, drawn afresh for each view
    gradients: int = 1
    train: int = 65536
    validation: int = 8192
    test: int = 8192

    def __post_init__(self) -> None:
        for key, most in (
            ("shapes", len(SHAPES)),
            ("colours", 12),
            ("sizes", 4),
            ("grid", 4),
            ("backgrounds", 16),
            ("gradients", 16),
            ("train", 2**24),
            ("validation", 2**24),
            ("test", 2**24),
        ):
            if not 1 <= getattr(self, key) <= most:
                raise ValueError(
                    f"sprites.{key}: must be from 1 to {most}, got {getattr(self, key)}"
                )
        smallest = SIDE / self.grid * RADIUS * SHRINK ** (self.sizes - 1)
        if smallest < LEAST_RADIUS:
            raise ValueError(
                f"sprites.sizes: {self.sizes} sizes on a grid of {self.grid} leave a sprite of"
                f" {smallest:.1f} pixels;"
                f" shapes are readable from {LEAST_RADIUS}"
            )

    @property
    def factors(self) -> dict[str, int]:
        """Label column -> number of values; a background that is all nuisance has no column."""
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
    """One split. The content of image i is a function of (seed, split, i); every view of it is a
    fresh rendering.

    "trainval" holds the contents of "train", then those of "val". Splits never share nuisance,
    though their orders may share draws.
    """

    Config, name = SpritesConfig, "sprites"
    shape = (3, SIDE, SIDE)
    rendered, augmentation = True, "fresh rendering"

    def __init__(self, config: SpritesConfig, split: str, seed: int):
        self.config, self.split, self.seed, self.factors = config, split, seed, config.factors
        self.combinations = config.combinations
        best = functools.partial(best_infonce, combinations=config.combinations)
        self.truth = Truth(math.log(config.combinations), best)
        sizes = {"train": config.train, "val": config.validation, "test": config.test}
        parts = []
        for part in ("train", "val") if split == "trainval" else (split,):
            rng = KeyedRNG(seed, 0).fork(f"sprites/{part}")
            parts.append(
                torch.stack(
                    [
                        rng.integers(name, count, sizes[part])
                        for name, count in self.factors.items()
                    ],
                    1,
                )
            )
        self.content = torch.cat(parts)

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


def render(content: Tensor, rng: KeyedRNG, config: SpritesConfig) -> Tensor:
    """Contents int64 [B, F] to uint8 images [B, 3, S, S], with nuisance from `rng`."""
    u = rng.uniform("nuisance", len(content), 10)
    factor = dict(zip(config.factors, content.unbind(1), strict=True))
    colour = _hue_to_rgb(_in_band(factor["colour"], config.colours, u[:, 0])) * (
        0.75 + 0.25 * u[:, 1:2]
    )  # [B, 3]
    cover = coverage(content, 2 * math.pi * u[:, 2], 2 * u[:, 3:5] - 1, config)[
        :, None
    ]  # [B, 1, S, S]
    turn, grey, slope, tint = u[:, 5], 0.1 + 0.4 * u[:, 6], 0.3 * u[:, 7], torch.ones_like(colour)
    if {"background", "gradient"} & factor.keys():
        grey, slope = (
            0.25 + 0.25 * u[:, 6],
            0.2 + 0.1 * u[:, 7],
        )  # bright enough for a hue, steep enough for a direction, never clipped
    if "gradient" in factor:
        turn = _in_band(factor["gradient"], config.gradients, u[:, 5])
    if "background" in factor:
        tint = 1 - TINT * (
            1 - _hue_to_rgb(_in_band(factor["background"], config.backgrounds, u[:, 8]))
        )  # [B, 3]
    x = (torch.arange(SIDE, device=content.device) + 0.5) / SIDE - 0.5
    angle = 2 * math.pi * turn
    direction = torch.stack([angle.cos() * slope, angle.sin() * slope], 1)
    brightness = (
        grey[:, None, None] + direction[:, :1, None] * x + direction[:, 1:, None] * x[:, None]
    )  # [B, S, S]
    image = (
        brightness[:, None] * tint[:, :, None, None] * (1 - cover)
        + colour[:, :, None, None] * cover
    )
    image.add_(rng.normal("pixels", len(content), 3, SIDE, SIDE), alpha=0.02)
    return image.mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def _in_band(value: Tensor, count: int, u: Tensor) -> Tensor:
    """Turns in the band of value int64 [B] of `count`, at u [B] in [0, 1) of its width; the bands
    stand evenly around the circle.
    """
    return (value + BAND * (u - 0.5)) / count


def coverage(content: Tensor, angle: Tensor, offset: Tensor, config: SpritesConfig) -> Tensor:
    """How much of each pixel the sprite covers, [B, S, S] in [0, 1]; `angle` [B] in radians,
    `offset` [B, 2] in [-1, 1].
    """
    cell = SIDE / config.grid
    radius = cell * RADIUS * SHRINK ** content[:, 2].float()
    centre = (
        content[:, [4, 3]] + 0.5 + JITTER * offset
    ) * cell  # x from the column, y from the row
    pixel = torch.arange(SIDE, device=content.device) + 0.5
    dx = (pixel - centre[:, :1])[:, None, :] / radius[:, None, None]
    dy = (pixel - centre[:, 1:])[:, :, None] / radius[:, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    x, y = cos * dx - sin * dy, sin * dx + cos * dy
    signed = torch.empty_like(x)  # distance to the outline in radii, negative inside
    for number in range(config.shapes):
        which = (content[:, 0] == number).nonzero()[:, 0]
        signed[which] = _distance(SHAPES[number], x[which], y[which])
    return (0.5 - signed * radius[:, None, None]).clamp_(0, 1)


def _distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to the outline of a shape that fits the unit circle."""
    if shape == "disc":
        return torch.hypot(x, y) - 0.85
    if shape == "ring":
        return (torch.hypot(x, y) - 0.73).abs() - 0.27
    if shape == "triangle":
        s = math.sqrt(0.75)
        return torch.maximum(torch.maximum(s * x + 0.5 * y, -s * x + 0.5 * y), -y) - 0.5
    ax, ay = x.abs(), y.abs()
    bar = torch.maximum(torch.minimum(ax, ay) - 0.26, torch.maximum(ax, ay) - 1)
    return bar


def _hue_to_rgb(hue: Tensor) -> Tensor:
    """Fully saturated colours [B, 3] of hues [B] in turns."""
    thirds = torch.arange(3, device=hue.device) * (2 / 3)
    phase = (hue[:, None] + thirds) % 1.0 * 6
    return ((phase - 3).abs() - 1).clamp(0, 1)


def best_infonce(negatives: int, combinations: int) -> float:
    """The best value of log(K + 1) - L that any critic reaches with K independent negatives, in
    nats.

        log(K + 1) - E log(1 + Binomial(K, 1/M))

    The ideal critic finds all candidates of the anchor's own content and can not tell them apart.
    """
    counts = binom(negatives, 1 / combinations)
    low, high = (int(counts.ppf(q)) for q in (1e-15, 1 - 1e-15))
    collisions = torch.arange(max(0, low - 1), min(negatives, high + 1) + 1, dtype=torch.float64)
    weights = torch.from_numpy(counts.pmf(collisions.numpy()))
    return math.log(negatives + 1) - float(
        (weights * torch.log1p(collisions)).sum() / weights.sum()
    )
