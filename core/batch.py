"""The values that methods receive and return: a batch, its output, encoded images.

B = images on this process, C H W = image shape, D = feature dimensions, P = code dimensions,
F = label columns (1 for ordinary data; one per factor for sprites).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from core.randomness import KeyedRNG


class Batch(NamedTuple):
    """Views of B images with their labels, indices and random numbers."""

    # each uint8 or float [B, C, H, W]; floats lie in [0, 1], except for linear_gaussian
    views: tuple[Tensor, ...]
    label: Tensor  # int64 [B, F]
    # int64 [B], place in the split. (mypy warns, because tuples have a method of this name.)
    index: Tensor  # type: ignore[assignment]
    rng: KeyedRNG  # the source of all random numbers of a method, such as posterior noise
    text: tuple[str, ...] = ()  # a caption of each image, [B], for captioned data


class Output(NamedTuple):
    """What a method computes from a batch."""

    loss: Tensor  # scalar, the training objective
    metrics: dict[str, Tensor]  # named scalars for the log, without gradient; information in nats


class Encoded(NamedTuple):
    """What one pass of an encoder computes from B images."""

    features: Tensor  # [B, D], what the probes read
    codes: Tensor | None = None  # unit length [B, P], if the method scores pairs of views


def as_float(x: Tensor) -> Tensor:
    """uint8 images divided by 255: float32, or float64 if that is torch's default. Floats are
    unchanged.
    """
    if x.is_floating_point():
        return x
    return x.to(torch.promote_types(torch.float32, torch.get_default_dtype())).div_(255)


def at_least_float32(x: Tensor) -> Tensor:
    """float64 is unchanged. Other dtypes become float32: half precision is too coarse for means."""
    return x if x.dtype == torch.float64 else x.float()
