"""Check features for NaN and infinity, and standardise them.

n = images, D = feature dimensions.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.errors import Unmeasurable

BLOCK = 1024  # images in float64 at a time


def require_finite_features(x: Tensor, what: str) -> None:
    """Raise `Unmeasurable` if features are not a nonempty matrix [n, D] of finite numbers."""
    if x.ndim != 2 or not x.numel():
        raise Unmeasurable(f"{what}: features [n, D] are required, got {list(x.shape)}")
    if x.sum().isfinite():
        return  # a finite sum has only finite terms; this is ten times as fast
    if bad := int((~x.isfinite()).any(1).sum()):
        raise Unmeasurable(
            f"{what}: the features of {bad:,} of {len(x):,} images hold NaN or infinite numbers, so"
            " they can not be measured; check the weights and the precision"
        )


def require_finite_numbers(found: Mapping[str, Any], what: str) -> None:
    """Raise `Unmeasurable` if a number in a (nested) result of a probe is NaN or infinite."""
    for key, value in found.items():
        parts: Any = dict(enumerate(value)) if isinstance(value, list | tuple) else value
        if isinstance(parts, Mapping):
            require_finite_numbers(parts, f"{what}, {key}")
        elif isinstance(value, float) and not math.isfinite(value):
            raise Unmeasurable(f"{what}: {key} is {value}, which is not finite")


def mean_and_deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (with n - 1) of each feature of x [n, D], float64 [D]. The
    deviation of a dead feature is replaced by 1.

    A feature is dead if its deviation is at most the rounding error of its values, eps |mean|. Here
    eps is that of the features' precision or n times that of float64, whichever is larger. (The
    `StandardScaler` of scikit-learn has only the second.) The first image is subtracted first, in
    float64, so a constant feature has a deviation of exactly 0.
    """
    first = x[:1].double()
    total, squares = torch.zeros_like(first[0]), torch.zeros_like(first[0])
    for block in x.split(BLOCK):
        total += (block - first).sum(0)
    shift = total / len(x)
    for block in x.split(BLOCK):
        squares += (block - first - shift).square().sum(0)
    mean, deviation = first[0] + shift, (squares / max(1, len(x) - 1)).sqrt()
    rounding = max(torch.finfo(x.dtype).eps, len(x) * torch.finfo(torch.float64).eps)
    return mean, torch.where(deviation > rounding * mean.abs(), deviation, 1.0)


def standardised(
    x: Tensor, mean: Tensor, deviation: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(x - mean) / deviation of features [n, D], in float64, so that no digits are lost."""
    return torch.cat([((block - mean) / deviation).to(dtype) for block in x.split(BLOCK)])


def unit_rows(x: Tensor) -> Tensor:
    """x / |x| for each row, for numbers of any size; a zero row stays zero.

    The square of a float32 overflows above 2e19 and is zero below 1e-23, so each row is divided by
    its largest number first.
    """
    largest = x.abs().amax(1, keepdim=True)
    scaled = x / torch.where(largest > 0, largest, 1)
    return scaled / scaled.norm(dim=1, keepdim=True).clamp(min=1)
