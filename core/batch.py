"""What flows through the house: a batch goes into a method, an output comes out.

B = images on this process, F = label columns (one for ordinary data; one a factor for sprites).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from core.randomness import KeyedRNG


class Batch(NamedTuple):
    """Views of B images, and the randomness that belongs to them."""

    views: tuple[
        Tensor, ...
    ]  # each uint8 or float [B, C, H, W]; floats are in [0, 1], or real values of linear_gaussian
    label: Tensor  # int64 [B, F]
    index: Tensor  # type: ignore[assignment]  # int64 [B], place in the split; the name hides tuple.index
    rng: KeyedRNG  # whatever a method draws (posterior noise, a shuffle), it draws from here


class Output(NamedTuple):
    """What a method makes of a batch."""

    loss: Tensor  # scalar, the training objective
    metrics: dict[str, Tensor]  # named scalars for the log, detached; information in nats


class Encoded(NamedTuple):
    """What one pass of a frozen encoder makes of B images."""

    features: Tensor  # [B, D], what the probes read
    codes: Tensor | None = None  # unit length [B, P], of a method that scores pairs of views


def as_float(x: Tensor) -> Tensor:
    """Images as floats: uint8 is divided by 255 into [0, 1], floats pass. Where float64 is torch's
    default they are float64.
    """
    return (
        x
        if x.is_floating_point()
        else x.to(torch.promote_types(torch.float32, torch.get_default_dtype())).div_(255)
    )


def at_least_float32(x: Tensor) -> Tensor:
    """What a mean over a batch is taken of: half precision is widened, float64 stays."""
    return x if x.dtype == torch.float64 else x.float()
