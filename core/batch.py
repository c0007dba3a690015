"""What flows through the house: a batch goes into a method, an output comes out.

B = images on this process, F = label columns (one for ordinary data; one a factor for sprites).
"""

from core.randomness import Draws

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Views of B images, and the randomness that belongs to them."""

    views: tuple[Tensor, ...]  # each uint8 or float [B, C, H, W]; floats are in [0, 1], or real values of linear_gaussian
    label: Tensor  # int64 [B, F]
    index: Tensor  # type: ignore[assignment]  # int64 [B], place in the split; the name hides tuple.index
    draws: Draws  # whatever a method draws (posterior noise, a shuffle), it draws from here


class Output(NamedTuple):
    """What a method makes of a batch."""

    loss: Tensor  # scalar, the training objective
    metrics: dict[str, Tensor]  # named scalars for the log, detached; information in nats


def as_float(x: Tensor) -> Tensor:
    """Images as floats: uint8 is divided by 255 into [0, 1], floats pass."""
    return x if x.is_floating_point() else x.float().div_(255)
