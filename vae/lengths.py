"""Expected lengths of a file: D + R of its images, and the length that the model's densities give
at the file's codes.

n = images, L = latent dimensions, K = codes of an image.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Normal

from core.information.units import bits
from vae.ans import Stack
from vae.bitsback import BitsBack, Images, Parts
from vae.codecs import BITS

Codes = NDArray[np.float64]

SLICE = 64  # images that the networks read at a time


class Bound(NamedTuple):
    """The model's own D and R in bits per image."""

    d: float
    r: float
    # D if every level has a probability of at least 2^-24, as in a file, so that no value costs
    # more than 24 bits. It is lower than D if the model is very sure of wrong values.
    floored: float
    # the standard error of net - (floored + r). These two lengths differ by chance: a file uses one
    # code per image, and this bound uses K codes.
    error: float


def bound(codec: BitsBack, images: Images, seed: int = 0, samples: int = 4) -> Bound:
    """D and R of images [n, C, H, W], means over K = `samples` codes of each image, K >= 2."""
    generator = torch.Generator().manual_seed(seed)
    d = r = floored = spread = 0.0
    for x in codec.sliced(images, SLICE):
        mean, log_sigma = codec.model.moments(x)
        own, one = [], []  # K estimates of the bound, and K lengths of a file, [B] each
        for _ in range(samples):
            noise = torch.randn(mean.shape, generator=generator, dtype=torch.float64)
            z = mean + log_sigma.exp() * noise
            rate = codec.model.code_prior.rate(mean, log_sigma, z).sum(1)
            exact, least = distortions(codec, x, z)
            d, r, floored = d + _sum(exact), r + _sum(rate), floored + _sum(least)
            own.append(least + rate)
            one.append(least + log_ratio(codec, mean, log_sigma, z))
        spread += _sum(torch.stack(one).var(0)) + _sum(torch.stack(own).var(0)) / samples
    d, r, floored = (bits(total) / (samples * len(images)) for total in (d, r, floored))
    return Bound(d, r, floored, bits(math.sqrt(spread)) / len(images))


def at_codes(codec: BitsBack, images: Images, codes: Codes) -> NDArray[np.float64]:
    """-log2 p(x|z) - log2 p(z) + log2 q(z|x) of images [n, C, H, W] at codes [n, L], in bits [n],
    by the densities in float64, without grids and counts.
    """
    found, z = [], torch.from_numpy(codes)
    for x, own in zip(codec.sliced(images, SLICE), z.split(SLICE), strict=True):
        mean, log_sigma = codec.model.moments(x)
        least = distortions(codec, x, own)[1]
        found.append(bits(least + log_ratio(codec, mean, log_sigma, own)).numpy())
    return np.concatenate(found)


def distortions(codec: BitsBack, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """-log p(x|z) [B] in nats, twice: by the model, and as a file codes it. In a file with M
    levels, a level of probability p gets (1 - M 2^-24) p + 2^-24.
    """
    least, levels = 2.0**-BITS, codec.pixels.levels
    log_p = codec.model.likelihood(z).log_prob(x).double()
    floored = (log_p.exp() * (1 - levels * least) + least).log()
    return -log_p.flatten(1).sum(1), -floored.flatten(1).sum(1)


def log_ratio(codec: BitsBack, mean: Tensor, log_sigma: Tensor, z: Tensor) -> Tensor:
    """log q(z|x) - log p(z) [B], whose mean over z ~ q(z|x) is the rate."""
    posterior = Normal(mean, log_sigma.exp(), validate_args=False).log_prob(z).sum(1)
    return posterior - codec.model.prior().log_prob(z)


class Link(NamedTuple):
    """One image in a chain of images: how many bits were popped and pushed for it, and how many are
    on the stack after it.
    """

    image: int  # its place
    parts: Parts
    content: float


def moves(codec: BitsBack, images: Images) -> Iterator[Link]:
    """Code images one after another on one stack: one Link per image, in the order of coding.

    A file codes batches of images, so its codes are other draws from the same posteriors. The
    expected numbers of bits of each image are the same.
    """
    alone = BitsBack(codec.method, codec.rows, batch=1)
    for step in alone.steps(Stack(), images, alone.grid(images)):
        yield Link(step.first, step.parts, step.content)


def _sum(x: Tensor) -> float:
    return float(x.sum())
