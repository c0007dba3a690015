"""Pairs of images whose mutual information is known exactly, to test estimators.

n = pairs, C x H x W = an image (in `best`, C is the number of candidates),
S = side of a cell, K = cells of a grid, B = bits of an image.
Information is in nats.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import hadamard
from scipy.optimize import brentq

from core.data.sprites import SpritesConfig, best_infonce, render
from core.randomness import KeyedRNG

Images = NDArray[Any]  # uint8 or float32 [n, C, H, W]
Pixels = NDArray[np.uint8]
Numbers = NDArray[np.int64]
INK = 100  # a pixel of at least this value belongs to the digit
DARK = 128  # pixels of a background are below this value, and ink on a background is not
DRAWS = 20_000  # for the best possible value at C candidates


class ImagePairs(NamedTuple):
    """Images x and y, and log p(x_i, y_i) / p(x_i) p(y_i) [n], whose mean is the information of
    this sample.
    """

    x: Images
    y: Images
    pointwise: NDArray[np.float64]


class ImageSource(NamedTuple):
    """`draw(n, seed)` gives pairs with this information. `best(C)` is the largest expected InfoNCE
    of any critic with C candidates.
    """

    draw: Callable[[int, int], ImagePairs]
    information: float
    best: Callable[[int], float]


class Pools(NamedTuple):
    """Images [m, S, S] of each digit: those for x, and others for y."""

    x: list[Pixels]
    y: list[Pixels]


def pools(images: Pixels, labels: Numbers) -> Pools:
    """Digits [m, 28, 28] as cells [m, 16, 16]: means of 2 x 2 pixels, with a margin of one pixel.

    Images at even places are for x, at odd places for y. If images of two digits have the same ink,
    both are left out, so that the ink alone determines the digit.
    """
    m, side = len(images), images.shape[1] // 2
    small = images.reshape(m, side, 2, side, 2).mean((2, 4)).round().astype(np.uint8)
    small = np.pad(small, ((0, 0), (1, 1), (1, 1)))
    _, ink = np.unique(np.packbits(small >= INK).reshape(m, -1), axis=0, return_inverse=True)
    ink = ink.reshape(-1)
    least, most = np.full(m, 255), np.zeros(m, int)
    np.minimum.at(least, ink, labels)
    np.maximum.at(most, ink, labels)
    clear = np.flatnonzero(least[ink] == most[ink])
    x, y = (
        [small[place] for place in (half[labels[half] == digit] for digit in range(10))]
        for half in (clear[clear % 2 == 0], clear[clear % 2 == 1])
    )
    return Pools(x, y)


def flip_probability(information: float, bits: int) -> float:
    """p with bits (log 2 - h(p)) = information, where h is the binary entropy in nats."""
    most = bits * math.log(2)
    if not 0 <= information <= most + 1e-12:
        raise ValueError(f"information: {bits} bits carry 0 to {most:.4f} nats, got {information}")
    if information >= most - 1e-12:
        return 0.0
    return 0.5 if information == 0 else float(brentq(lambda p: _of(p, bits) - information, 0, 0.5))


def _of(p: float, bits: int) -> float:
    """bits (log 2 - h(p)): what this number of bits carries through the channel, in nats."""
    entropy = -sum(share * math.log(share) for share in (p, 1 - p) if share > 0)
    return bits * (math.log(2) - entropy)


def digit_grid(
    made_of: Pools,
    rows: int,
    columns: int,
    information: float,
    bits: int = 1,
    backgrounds: bool = False,
    colours: bool = False,
) -> ImageSource:
    """Grids of digits. Each cell shows a number of `bits` bits, 0 to 2^bits - 1, as a digit. The
    bits of y are those of x through a binary symmetric channel with flip probability p:

        I(X; Y) = B (log 2 - h(p)),   B = rows x columns x bits

    `information` determines p. The images of digits are drawn independently for x and y, from pools
    without a common image. `backgrounds` (a ramp with noise, darker than ink) and `colours` (of
    each digit; then C = 3) are also drawn independently, and they hide no ink. So the images carry
    exactly the information of their bits.
    """
    total = rows * columns * bits
    p = flip_probability(information, total)

    def draw(n: int, seed: int) -> ImagePairs:
        random = np.random.default_rng(seed)
        sent = random.integers(2, size=(n, total))
        wrong = random.random((n, total)) < p
        sides = []
        for pool, word in ((made_of.x, sent), (made_of.y, sent ^ wrong)):
            digits = word.reshape(n, -1, bits) @ (1 << np.arange(bits))
            cells = _cells(digits, pool, random)
            tints = random.random((n, rows * columns, 3), np.float32) if colours else None
            image = _joined(cells, rows, columns, tints)
            sides.append(_on_background(image, random) if backgrounds or colours else image)
        return ImagePairs(sides[0], sides[1], _pointwise(wrong.sum(1), total, p))

    return ImageSource(draw, information, lambda candidates: best_of_bits(candidates, total, p))


def _cells(digits: Numbers, pool: list[Pixels], random: np.random.Generator) -> Pixels:
    """A random image of the pool for each number: [n, K] to [n, K, S, S]."""
    found = np.empty((*digits.shape, *pool[0].shape[1:]), np.uint8)
    for digit in np.unique(digits):
        where = digits == digit
        found[where] = pool[digit][random.integers(len(pool[digit]), size=where.sum())]
    return found


def _joined(cells: Pixels, rows: int, columns: int, tints: NDArray[np.float32] | None) -> Pixels:
    """Cells [n, K, S, S] as one image [n, 1, H, W], or as ink of a colour in [n, 3, H, W]. A
    colour leaves each channel of the ink 50 to 100 % of its brightness.
    """
    n, _, side, _ = cells.shape
    image = cells[:, None]
    if tints is not None:
        shade = 1 - 0.5 * tints.transpose(0, 2, 1)[..., None, None]
        image = np.where(image >= INK, image * shade, 0).astype(np.uint8)
    image = image.reshape(n, -1, rows, columns, side, side).transpose(0, 1, 2, 4, 3, 5)
    return np.ascontiguousarray(image.reshape(n, -1, rows * side, columns * side), np.uint8)


def _on_background(images: Pixels, random: np.random.Generator) -> Pixels:
    """Ink becomes 128 + half its value. Everything else becomes a ramp with noise, from 0 to 127;
    its direction is random for each image.
    """
    n, channels, height, width = images.shape
    ink = images >= (INK if channels == 1 else 1)
    angle, base, slope = (
        random.uniform(low, high, (n, 1, 1, 1)).astype(np.float32) for low, high in _RAMP
    )
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    right = np.linspace(-1, 1, width, dtype=np.float32)
    ramp = base + slope * (np.cos(angle) * down + np.sin(angle) * right)
    noise = random.integers(0, 24, size=images.shape, dtype=np.uint8)
    dark = np.clip(ramp + noise, 0, DARK - 1).astype(np.uint8)
    return np.where(ink, DARK + images // 2, dark).astype(np.uint8)


_RAMP = ((0.0, 2 * math.pi), (20.0, 80.0), (0.0, 40.0))  # the angle, the mean, the rise to the edge


def _pointwise(wrong: Numbers, total: int, p: float) -> NDArray[np.float64]:
    """log p(y|x) / p(y) of pairs in which `wrong` bits are flipped."""
    right = (total - wrong) * math.log(2 * (1 - p))
    return np.asarray(right + (wrong * math.log(2 * p) if p else 0.0), np.float64)


def best_of_bits(candidates: int, total: int, p: float) -> float:
    """The largest expected InfoNCE of any critic with C = `candidates`, for `total` bits through a
    binary symmetric channel. The best critic is the density ratio r = p(y|x) / p(y):

        I - E log (1/C)(r(x, y) + sum over C - 1 others r(x, y_c))

    It is exact without flips (`best_infonce`). With flips, it is computed from 20,000 draws of the
    number of bits that differ.
    """
    if p == 0:
        return best_infonce(candidates - 1, 2**total)
    random, number = np.random.default_rng(0), np.arange(total + 1)
    logs = _pointwise(number, total, p)
    shares = np.array([math.comb(total, int(k)) for k in number]) / 2.0**total
    others = random.multinomial(candidates - 1, shares, size=DRAWS) @ np.exp(logs)
    own = np.exp(logs[random.binomial(total, p, size=DRAWS)])
    return _of(p, total) - float(np.log((own + others) / candidates).mean())


def sprites(config: SpritesConfig) -> ImageSource:
    """Two views of sprites with a common content, uniform on M combinations: I(X; Y) = log M."""
    m = config.combinations

    def draw(n: int, seed: int) -> ImagePairs:
        rng = KeyedRNG(seed, 0)
        factors = config.factors.items()
        content = torch.stack([rng.integers(key, count, n) for key, count in factors], 1)
        x, y = (render(content, rng.fork(side), config).numpy() for side in "xy")
        return ImagePairs(x, y, np.full(n, math.log(m)))

    return ImageSource(draw, math.log(m), lambda candidates: best_infonce(candidates - 1, m))


def mapped(source: ImageSource, of_image: Callable[[Images], Images]) -> ImageSource:
    """The source with an invertible map of both images. Such a map changes no information."""

    def draw(n: int, seed: int) -> ImagePairs:
        made = source.draw(n, seed)
        return made._replace(x=of_image(made.x), y=of_image(made.y))

    return source._replace(draw=draw)


def permuted(images: Images) -> Images:
    """The values of every image in another order, which is the same for all images."""
    flat = images.reshape(len(images), -1)
    order = np.random.default_rng(0).permutation(flat.shape[1])
    return np.ascontiguousarray(flat[:, order]).reshape(images.shape)


def mixed(images: Images) -> Images:
    """An orthogonal map of every channel, times sqrt(H W): pixels with random signs, through a
    Hadamard matrix. H W must be a power of 2. The results are whole numbers that float32 holds
    exactly, so nothing is lost.
    """
    n, channels, height, width = images.shape
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), height * width)
    matrix = signs[:, None] * hadamard(height * width, np.float32)
    flat = images.reshape(n * channels, -1).astype(np.float32)
    return np.asarray(flat @ matrix).reshape(images.shape)


def bent(images: Images) -> Images:
    """An increasing function of every pixel, ((v + 1) / 256)^g; the exponent g is from 1/3 to 3 and
    differs between places.
    """
    exponents = 3 ** np.random.default_rng(0).uniform(-1, 1, images.shape[1:])
    return np.asarray(((images.astype(np.float64) + 1) / 256) ** exponents, np.float32)
