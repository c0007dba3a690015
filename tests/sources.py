"""Gaussian pairs, and codes whose inner products are the scores of the optimal critic:
log p(x, y) / (p(x) p(y)).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from probes.samples.benchmark_sources import correlation, gaussian


class Gaussian(NamedTuple):
    """Pairs [n, d], codes [n, d + 2], I in nats, and the pointwise information [n], the inner
    products of the codes.
    """

    x: Tensor
    y: Tensor
    query: Tensor
    key: Tensor
    information: float
    pointwise: Tensor


def gaussian_pairs(n: int, d: int, information: float, seed: int) -> Gaussian:
    made = gaussian(information, d)(n, seed)
    x, y = torch.from_numpy(made.x), torch.from_numpy(made.y)
    rho = correlation(information, d)
    variance, one = 1 - rho**2, torch.ones(n, 1, dtype=torch.float64)
    alone_x, alone_y = (
        -(rho**2) / (2 * variance) * side.square().sum(1, keepdim=True) for side in (x, y)
    )
    query = torch.cat([x * rho / variance, alone_x + information, one], 1)
    key = torch.cat([y, one, alone_y], 1)
    return Gaussian(x, y, query, key, information, torch.from_numpy(made.pointwise))
