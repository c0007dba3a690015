"""Copies between the CPU and a device."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

ALIGNED = 16  # bytes; tensors of all dtypes may start at multiples of it
WORK = 4  # a probe's work takes about this many times the memory of what it reads

T = TypeVar("T")


def near(tree: T, device: torch.device | str) -> T:
    """A tree (nested dicts, lists, tuples) with its tensors on `device`, if the device has enough
    free memory for them and for a probe's work. Otherwise the tree is returned unchanged.

    >>> near((torch.zeros(2), "a label"), "cpu")
    (tensor([0., 0.]), 'a label')
    """
    device = torch.device(device)
    if device.type == "cuda":
        size = sum(x.nbytes for x in tree_leaves(tree) if isinstance(x, Tensor))
        if WORK * size > torch.cuda.mem_get_info(device)[0]:
            return tree
    moved: T = tree_map_only(Tensor, lambda x: x.to(device), tree)
    return moved


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """The same values on `device`; on a GPU by one asynchronous copy from pinned memory."""
    return send([values], device)[0]


def send(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """CPU tensors of any shapes and dtypes on `device`.

    For a GPU they are packed into one pinned buffer and copied together. A copy from memory that is
    not pinned would make the host wait, and each copy costs a launch.
    """
    if device.type != "cuda":
        return [x.to(device) for x in tensors]
    sizes = [-(-x.numel() * x.element_size() // ALIGNED) * ALIGNED for x in tensors]
    packed = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=True)
    for x, part in zip(tensors, packed.split(sizes), strict=True):
        _as(part, x).copy_(x)
    moved = packed.to(device, non_blocking=True)
    return [_as(part, x) for x, part in zip(tensors, moved.split(sizes), strict=True)]


def to_host(tree: Any) -> tuple[Any, Callable[[], object]]:
    """A tree (nested dicts, lists, tuples) with copies of its tensors on the CPU, and a function
    that waits until they are complete. Copies from a GPU run while the host continues.
    """
    devices = set()

    def copied(x: Tensor) -> Tensor:
        if x.device.type != "cuda":
            return x.detach().to("cpu", copy=True)
        devices.add(x.device)
        place = torch.empty_like(x, device="cpu", pin_memory=True)
        return place.copy_(x.detach(), non_blocking=True)

    made = tree_map_only(Tensor, copied, tree)
    events = [torch.cuda.current_stream(device).record_event() for device in devices]
    return made, lambda: [event.synchronize() for event in events]


def _as(part: Tensor, like: Tensor) -> Tensor:
    """The first bytes of a part of a buffer, with the dtype and shape of another tensor."""
    return part[: like.numel() * like.element_size()].view(like.dtype).view(like.shape)
