"""Bits-back coding: a trained VAE as a lossless compressor of images.

Townsend, Bird, Barber: Practical lossless compression with latent variables using bits back coding,
2019. An image x is coded on a stack of bits (`vae.ans`):

    pop  z ~ q(z|x)      takes  -log2 q(z|x)  bits from the stack: they "choose" the code
    push x under p(x|z)  adds   -log2 p(x|z)
    push z under p(z)    adds   -log2 p(z)

The net length is D + R in expectation. The decoder undoes the steps in the opposite order, and
gets the popped bits back. The first image needs start-up bits, which are part of the file.

All parameters of distributions are computed in float64, rounded to a grid in one place, and become
integer counts. So batch sizes, threads and the last digits of a processor's arithmetic change the
bits of a file only if a parameter lies almost exactly between two steps of the grid. This is rare,
and decoding then stops with an error.
B = images of a batch, L = latent dimensions, C H W = image shape, P = parameters of a value.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import UserError
from core.networks.discretized import LEVELS
from vae.ans import MOST_BITS, Broken, Counts, Stack
from vae.beta import BetaVAE
from vae.codecs import pixel_codec, to_array
from vae.grid import Grid, Ints
from vae.pixel_chain import ChainCodec, PlainCodec
from vae.prior_codecs import prior_codec

Images = NDArray[np.uint8]
Done = Callable[[int], object]

# After `done` images, a batch has at most done / GROWTH images, because it pops bits that those
# images have pushed. But it has at least one image.
GROWTH = 4
BATCH = 512  # images of a batch, at most


class Parts(NamedTuple):
    """How many bits were popped and pushed while some images were coded."""

    popped: float = 0.0  # -log2 q(z|x)
    pixels: float = 0.0  # -log2 p(x|z)
    prior: float = 0.0  # -log2 p(z)
    start: int = 0  # start-up bits

    @property
    def net(self) -> float:
        return self.pixels + self.prior - self.popped

    def as_numbers(self) -> dict[str, float]:
        return {name: float(value) for name, value in self._asdict().items()} | {"net": self.net}

    def plus(self, other: "Parts") -> "Parts":
        return Parts(
            self.popped + other.popped,
            self.pixels + other.pixels,
            self.prior + other.prior,
            self.start + other.start,
        )


class Step(NamedTuple):
    """The result of coding a batch of images."""

    first: int  # place of its first image
    parts: Parts
    cells: Ints  # the codes that were popped [B, L]
    content: float  # bits on the stack afterwards, start-up bits included


class Coded(NamedTuple):
    """The result of coding some images."""

    stack: Stack
    parts: Parts
    cells: Ints  # the codes of the images [n, L]


class BitsBack:
    """The codec of one VAE: images [n, C, H, W] of 8 bits, 0 and 255 for binary ones, to a stack.

    `rows` is the number of images that a network reads at a time; it changes only memory and
    speed.
    """

    def __init__(self, method: BetaVAE, rows: int = BATCH, batch: int = BATCH):
        self.model = copy.deepcopy(method).cpu().double().eval().requires_grad_(False)
        self.method, self.shape, self.rows, self.batch = method, method.shape, rows, batch
        self.pixels = pixel_codec(self.model.pixels)
        self.prior = prior_codec(self.model.code_prior, self.model.config.latent)
        chained = hasattr(self.model, "pixelcnn")
        self.chain = (ChainCodec if chained else PlainCodec)(self.model, self.pixels, rows)

    def check(self, images: Images) -> None:
        """`UserError` if these images have another shape, or values without probability."""
        if images.dtype != np.uint8 or images.shape[1:] != tuple(self.shape):
            given, asked = ("x".join(map(str, sides)) for sides in (images.shape[1:], self.shape))
            raise UserError(
                f"images are {images.dtype} {given} (channels, height, width), but the model reads"
                f" uint8 {asked}; set data.size, data.grey or another folder"
            )
        if self.pixels.levels == 2 and ((images != 0) & (images != 255)).any():
            value = int(images[(images != 0) & (images != 255)][0])
            raise UserError(
                f"the pixel value {value} has no probability: the model's likelihood is bernoulli,"
                " for images of 0 and 255; set data.binarise=true"
            )

    def grid(self, images: Images, fineness: int = 3) -> Grid:
        """A grid that suits the posteriors of these images."""
        return Grid.for_codes(*self.moments(images), fineness)

    def encode(self, images: Images, grid: Grid, done: Done = int) -> Coded:
        """Code images, the last one first, so that the decoder finds them in order."""
        stack, total, cells = Stack(), Parts(), []
        for step in self.steps(stack, images, grid):
            total = total.plus(step.parts)
            cells.append(step.cells)
            done(len(step.cells))
        latent = self.model.config.latent
        codes = np.concatenate(cells[::-1]) if cells else np.empty((0, latent), np.int64)
        return Coded(stack, total, codes)

    def steps(self, stack: Stack, images: Images, grid: Grid) -> Iterator[Step]:
        """Code images on a stack, batch by batch."""
        self.check(images)
        end = len(images)
        for number, size in enumerate(schedule(len(images), self.batch)):
            expected = stack.bits * len(images) / max(1, len(images) - end)
            wider = stack.may_widen(expected)
            end -= size
            yield self._encode_batch(stack, grid, images, slice(end, end + size), number, wider)

    def decode(self, stack: Stack, grid: Grid, count: int, done: Done = int) -> Images:
        """The inverse of `encode`; raises `Broken` if this model did not code the stack."""
        parts = []
        for number, size in reversed(list(enumerate(schedule(count, self.batch)))):
            parts.append(self._decode_batch(stack, grid, size, number))
            done(size)
        if not stack.is_start():
            raise Broken("the start-up bits were not recovered")
        return np.concatenate(parts) if parts else np.empty((0, *self.shape), np.uint8)

    def _encode_batch(
        self, stack: Stack, grid: Grid, images: Images, place: slice, number: int, wider: bool
    ) -> Step:
        if wider:
            stack.widen()
        batch = images[place]
        levels = self._levels(batch)
        drawn, before = stack.drawn, stack.bits
        posterior = grid.rounded(*self.moments(batch))
        cells = grid.pop(stack, posterior, veil(number, len(posterior.mean)))
        cells = cells.reshape(len(batch), -1)
        start = 32 * (stack.drawn - drawn)
        popped = before + start - stack.bits
        before = stack.bits
        self.chain.push(stack, levels, grid.codes(cells))
        pixels, before = stack.bits - before, stack.bits
        self.prior.push(stack, grid, cells)
        prior = stack.bits - before
        stack.push_uniform(np.array([wider], dtype=np.uint64), bits=1)
        return Step(place.start, Parts(popped, pixels, prior, start), cells, stack.bits)

    def _decode_batch(self, stack: Stack, grid: Grid, count: int, number: int) -> Images:
        wider = bool(stack.pop_uniform(1, bits=1)[0])
        cells = self.prior.pop(stack, grid, count)
        levels = self.chain.pop(stack, grid.codes(cells))
        images = (levels * (255 // (self.pixels.levels - 1))).astype(np.uint8)
        posterior = grid.rounded(*self.moments(images))
        grid.push(stack, cells.ravel(), posterior, veil(number, cells.size))
        if wider:
            stack.narrow()
        return images

    def moments(self, images: Images) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and log sigma [B, L] of the posteriors, in float64."""
        parts = [self.model.moments(x) for x in self.sliced(images)]
        return tuple(np.concatenate([to_array(x) for x in side]) for side in zip(*parts))  # type: ignore[return-value]  # noqa: B905

    def _levels(self, images: Images) -> NDArray[Any]:
        """Whole levels 0 ... K - 1."""
        return images // (255 // (self.pixels.levels - 1))

    def sliced(self, images: Images, rows: int | None = None) -> Iterator[Tensor]:
        """Images as the model reads them, float64 in [0, 1], `rows` at a time."""
        rows = rows or self.rows
        for first in range(0, len(images), rows):
            part = images[first : first + rows].astype(np.float64) / (LEVELS - 1)
            yield torch.from_numpy(part)


def schedule(count: int, most: int) -> Iterator[int]:
    """The sizes of the batches that code `count` images, in the encoder's order.

    A batch pops all its codes before it pushes anything, so the stack must hold the bits of all
    these codes. Therefore batches grow only as fast as the stack, and the start-up bits are those
    of about one image.

    >>> list(schedule(20, 3))
    [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 3, 2]
    """
    done = 0
    while done < count:
        size = min(max(1, done // GROWTH), most, count - done)
        yield size
        done += size


def veil(number: int, size: int) -> Counts:
    """Random numbers [size] below 2^28, with which a batch mixes the counts that it pops.

    Most bits that a batch pops are those of the codes that the batch before it has pushed. Without
    a veil, z would not be a draw from q(z|x): after one unlikely code, others would follow.
    """
    raw = np.random.Philox(key=number + 1).random_raw(size)
    return raw >> np.uint64(64 - MOST_BITS)


def compressor(method: Any, **options: int) -> BitsBack:
    """The codec of a method; `UserError` if it has none."""
    if not isinstance(method, BetaVAE):
        raise UserError(
            f"{type(method).__name__} has no posterior and likelihood, so it can not compress; name"
            " a checkpoint of a VAE"
        )
    with torch.no_grad():
        return BitsBack(method, **options)
