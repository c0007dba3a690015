"""Asynchronous copies from the CPU to a device."""

from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNED = 16  # bytes; tensors of all dtypes may start at multiples of it


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """The same values on `device`; on a GPU by one asynchronous copy from pinned memory."""
    return send([values], device)[0]


def send(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """CPU tensors of any shapes and dtypes on `device`.

    For a GPU they are packed into one pinned buffer and copied together, because copies from other
    memory make the host wait, and each copy costs a launch.
    """
    if device.type != "cuda":
        return [x.to(device) for x in tensors]
    sizes = [-(-x.numel() * x.element_size() // ALIGNED) * ALIGNED for x in tensors]
    packed = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=True)
    for x, part in zip(tensors, packed.split(sizes), strict=True):
        _as(part, x).copy_(x)
    moved = packed.to(device, non_blocking=True)
    return [_as(part, x) for x, part in zip(tensors, moved.split(sizes), strict=True)]


def _as(part: Tensor, like: Tensor) -> Tensor:
    """The first bytes of a part of a buffer, with the dtype and shape of another tensor."""
    return part[: like.numel() * like.element_size()].view(like.dtype).view(like.shape)
