"""Arrays that a probe reads again and again, moved to the encoder's device where they fit."""

from typing import Any, TypeVar

import torch
from torch import Tensor

COPIES = 4  # a probe makes about as many copies of what it reads

T = TypeVar("T")


def near(value: T, device: torch.device | str) -> T:
    """A tensor, or a tuple with tensors in it, on `device` if it fits into its free memory with
    room for a probe's work; otherwise unchanged.

    >>> near((torch.zeros(2), "a label"), "cpu")
    (tensor([0., 0.]), 'a label')
    """
    device = torch.device(device)
    if device.type == "cuda" and COPIES * _bytes(value) > torch.cuda.mem_get_info(device)[0]:
        return value
    moved: T = _moved(value, device)
    return moved


def _bytes(value: object) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(_bytes, value)) if isinstance(value, tuple) else 0


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if not isinstance(value, tuple):
        return value
    parts = [_moved(part, device) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
