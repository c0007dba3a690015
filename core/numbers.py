"""Users' arrays as plain numbers, without silent losses. Masked values and whole numbers that
float64 can not hold are refused, and columns that float32 can not hold are found.

n = rows, D = columns.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import UserError, shown

WHOLE = 2**53  # whole numbers up to it are exact in float64
# the largest error of rounding to float32, as a share of the column's standard deviation
LOST = 0.01
# A column is constant if it varies by less than this many times the rounding of its largest value.
NOISE = 64


def plain(values: Any, name: str) -> NDArray[Any]:
    """An array of numpy or torch, or nested lists, as a numpy array that torch can read. The result
    has this machine's byte order and no mask, and its floats have at most 64 bits.

    `UserError` for values that form no rectangular array, for masked values, and for whole numbers
    beyond 2^53, which float64 can not tell apart.

    >>> plain(np.arange(3, dtype=">i8")[::-1], "x").tolist()
    [2, 1, 0]
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if np.ma.is_masked(values):
        raise UserError(f"{name} has masked values; leave their rows out, or fill them")
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError):
        raise UserError(f"{name} is not a rectangular array of numbers") from None
    if array.dtype.kind == "O":
        text = array.size and all(isinstance(one, str) for one in array.flat)
        array = array.astype(str) if text else array
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if array.dtype.kind in "iu" and array.size and array.dtype.itemsize == 8:
        least, most = int(array.min()), int(array.max())
        if max(-least, most) > WHOLE:
            raise UserError(
                f"{name} holds whole numbers beyond 2^53, which can not be told apart; number the"
                " labels from 0 by numpy.unique(labels, return_inverse=True)[1]"
            )
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return array if array.flags.writeable else array.copy()  # torch warns otherwise


def lost_in_float32(x: Tensor) -> int | None:
    """The first column of x [..., D] whose values float32 can not tell apart, or None: rounding
    moves a value by more than 1% of the column's standard deviation.

    >>> noise = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    >>> lost_in_float32(1e3 + noise), lost_in_float32(1e8 + noise)
    (None, 0)
    """
    if x.dtype not in (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64):
        return None
    rows = x.reshape(-1, x.shape[-1]).double() if x.ndim > 1 else x.double()[:, None]
    largest = rows.abs().amax(0)
    scaled = rows / torch.where(largest > 0, largest, 1)  # the square of 1e-200 would be 0
    deviation = scaled.std(0, correction=0)
    rounded = rows.float().double() / torch.where(largest > 0, largest, 1)
    error = (scaled - rounded).abs().amax(0)
    varies = deviation > NOISE * torch.finfo(torch.float64).eps
    lost = (varies & ~(error <= LOST * deviation)).nonzero()
    return int(lost[0]) if len(lost) else None


def means_unlabelled(labels: Iterable[Any]) -> bool:
    """Whether -1 among these labels, numbers or texts, usually means "no label": it is the only
    negative one, and the labels are not -1 and 1 alone.

    >>> means_unlabelled([0, 1, -1]), means_unlabelled(["2", "-1"]), means_unlabelled([-1, 1])
    (True, True, False)
    """
    texts = {str(label) for label in labels}
    if "-1" not in texts or texts == {"-1", "1"}:
        return False
    return all(text.isdecimal() for text in texts - {"-1"})


def require_seed(seed: Any) -> None:
    """`UserError` unless the seed is a whole number from 0 to 2^63 - 1."""
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise UserError(f"seed: must be a whole number from 0 to 2^63 - 1, got {shown(seed)}")
