"""Sources of pairs whose mutual information is known, with the optimal critic where it is an inner product of codes."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """Pairs [n, d] of correlation rho in every dimension, and codes whose inner product is log p(x, y) / p(x) p(y)."""

    x: Tensor
    y: Tensor
    query: Tensor
    key: Tensor
    information: float  # -d/2 log(1 - rho^2), nats
    pointwise: Tensor  # log p(x_i, y_i) / p(x_i) p(y_i), whose mean is the sample's own information


def gaussian_pairs(n: int, d: int, information: float, seed: int) -> Gaussian:
    rho = math.sqrt(1 - math.exp(-2 * information / d))
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * torch.randn(n, d, generator=g, dtype=torch.float64)
    variance, one = 1 - rho**2, torch.ones(n, 1, dtype=torch.float64)
    alone_x, alone_y = (-(rho**2) / (2 * variance) * side.square().sum(1, keepdim=True) for side in (x, y))
    query = torch.cat([x * rho / variance, alone_x + information, one], 1)
    key = torch.cat([y, one, alone_y], 1)
    return Gaussian(x, y, query, key, information, (query * key).sum(1))
