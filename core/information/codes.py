"""Posteriors of images and one code drawn from each: the input of all numbers about q(z|x).

n = images, B = images of a batch, L = latent dimensions.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from core.batch import Batch
from core.method import LatentModel


class Coded(NamedTuple):
    """A batch: images as the likelihood reads them, their posteriors, and a code of each."""

    x: Tensor  # [B, C, H, W]
    q: Distribution  # q(z|x), batch shape [B], event shape [L]
    z: Tensor  # [B, L]


class Codes(NamedTuple):
    """Diagonal Gaussian posteriors of n images, a code z_i ~ q(z|x_i) of each, and its rate."""

    mean: Tensor  # [n, L]
    sigma: Tensor  # [n, L]
    z: Tensor  # [n, L]
    rate: Tensor  # [n], terms of R = E KL(q(z|x) || p(z)), nats
    closed: bool  # whether the terms are closed forms; else they are log q(z|x) - log p(z) at z


@torch.no_grad()
def coded(method: LatentModel, batch: Batch) -> Coded:
    """Encode a batch of plain images, with its own random numbers."""
    image = batch.views[0]
    x = method.target(image, batch.rng.uniform("dequantise", *image.shape))
    q = method.posterior(x)
    return Coded(x, q, q.mean + q.stddev * batch.rng.normal("posterior", *q.mean.shape))


def encoded(method: LatentModel, batches: Iterable[Batch]) -> Iterator[Coded]:
    """Each batch with its posteriors and codes."""
    return (coded(method, batch) for batch in batches)


def codes(q: Distribution, z: Tensor, prior: Distribution) -> Codes:
    """Codes z [n, L] of normal posteriors q (batch shape [n]), with their rates under the prior."""
    try:
        rate, closed = kl_divergence(q, prior), True
    except NotImplementedError:  # a mixture or a flow
        rate, closed = q.log_prob(z) - prior.log_prob(z), False
    return Codes(q.mean, q.stddev, z, rate, closed)


def joined(parts: list[Codes]) -> Codes:
    """All batches as one."""
    mean, sigma, z, rate, closed = zip(*parts, strict=True)
    return Codes(torch.cat(mean), torch.cat(sigma), torch.cat(z), torch.cat(rate), all(closed))


def normal_factors(distribution: Distribution) -> Normal | None:
    """The independent normals that a distribution over z consists of; None for other ones."""
    inner = distribution.base_dist if isinstance(distribution, Independent) else None
    normal = isinstance(inner, Normal) and inner.batch_shape == distribution.event_shape
    return inner if normal else None
