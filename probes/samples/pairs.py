"""Paired samples from files. They are read without running code. If the pairs can not give a
trustworthy estimate, an error of one line says why.
"""

import hashlib
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core import npz
from core.errors import UserError
from core.numbers import plain

Array = NDArray[np.float64]
Side = NDArray[Any]  # vectors float64 [n, d], or images uint8 or float32 [n, C, H, W]
LEAST = 50
MOST = 2**25  # numbers of a side: a quarter of a GiB as float64
MOST_OF_IMAGES = 2**28  # pixels of a side
SAVE = "save the pairs by numpy.savez(path, x=x, y=y)"


class PairedSamples(NamedTuple):
    """x and y, each vectors [n, d] or images [n, C, H, W], with remarks for the reader of an
    estimate.
    """

    x: Side
    y: Side
    remarks: list[str]


def load_pairs(path: Path) -> tuple[Side, Side]:
    """The arrays `x` and `y` of an npz. `UserError` if the file is not an npz or holds other
    things.
    """

    def pick(records: zipfile.ZipFile) -> tuple[Side, Side]:
        x, y = (npz.array(records, name, path, SAVE, MOST_OF_IMAGES, rank=4) for name in "xy")
        return x, y

    both: tuple[Side, Side] = npz.read(path, SAVE, pick)
    for name, values in zip("xy", both, strict=True):
        if values.ndim <= 2 and values.size > MOST:
            raise UserError(
                f"{path}: {name} has {values.size:,} numbers; give at most {MOST:,} as vectors"
            )
    return both


def check_pairs(x: ArrayLike, y: ArrayLike, name: str = "pairs") -> PairedSamples:
    """Two arrays of equal length: vectors as float64 [n, d], images as uint8 or float32
    [n, C, H, W]. Constant columns and copies of a row are left out, and a remark says so. If values
    repeat, as labels do, equal rows are kept, and a remark warns that the estimate is too high if
    they are copies. `UserError` names what is wrong.
    """
    a, b = (_numbers(values, f"{name}: {side}") for side, values in (("x", x), ("y", y)))
    if len(a) != len(b):
        raise UserError(
            f"{name}: x has {len(a):,} rows and y {len(b):,}; row i of x belongs to row i of y"
        )
    kept, remark = without_copies(a, b)
    remarks = [remark] if remark else []
    if kept is not None:
        a, b = a[kept], b[kept]
    if len(a) < LEAST:
        raise UserError(
            f"{name}: {len(a)} distinct pairs are too few to train and to test critics; give at"
            f" least {LEAST}"
        )
    a, b = (varying(side, values, name, remarks) for side, values in (("x", a), ("y", b)))
    return PairedSamples(a, b, remarks)


def without_copies(a: Side, b: Side) -> tuple[NDArray[np.int64] | None, str]:
    """The rows to keep if some pairs are copies of others, else None; and a remark, if pairs
    repeat.
    """
    own = [_digests(side) for side in (a, b)]
    first = np.sort(np.unique(np.stack(own, 1), axis=0, return_index=True)[1])
    if len(first) == len(a):
        return None, ""
    judged = [
        _quantity(side, digests, first)
        for side, digests in zip((a, b), own, strict=True)
        if side.ndim > 2 or a.ndim == b.ndim == 2  # beside images, vectors may be labels
    ]
    if all(judged):
        return first, (
            f"{len(a) - len(first):,} rows are copies of others and were left out: a critic that"
            " trained on a copy has seen the row"
        )
    return None, (
        "values repeat, so equal rows were treated as separate draws; if they are copies of a row,"
        " the estimate is too high"
    )


def varying(side: str, values: Side, name: str, remarks: list[str]) -> Side:
    """The columns that are not constant; for images, all pixels."""
    constant = np.ptp(values.reshape(len(values), -1), axis=0) == 0
    if constant.all():
        raise UserError(
            f"{name}: {side} is constant, so it has no information; give something that varies"
        )
    if values.ndim > 2 or not constant.any():
        return values
    where = np.flatnonzero(constant)
    remarks.append(
        f"{len(where):,} of {values.shape[1]:,} columns of {side} are constant and were left out"
        if len(where) > 1
        else f"column {where[0]} of {side} is constant and was left out"
    )
    return values[:, ~constant]


def _digests(values: Side) -> NDArray[np.uint64]:
    """A number of 64 bits for each row; equal rows have equal numbers."""
    rows = np.ascontiguousarray(values + 0.0 if values.dtype.kind == "f" else values)  # -0 is 0
    found = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(found), np.uint64)


def _quantity(side: Side, digests: NDArray[np.uint64], first: NDArray[np.int64]) -> bool:
    """Whether equal values of a side come from copies of a row: the side has many different
    values, and most distinct rows have a value that no other row has.
    """
    columns = side.T if side.ndim == 2 else [digests]
    values = max(len(np.unique(column)) for column in columns)
    return values > np.sqrt(len(side)) and len(np.unique(digests[first])) > len(first) // 2


def _numbers(values: Any, name: str) -> Side:
    array = plain(values, name)
    if array.dtype.kind not in "fiub":
        raise UserError(f"{name} holds {array.dtype}, not real numbers")
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim == 3:  # grey images
        array = array[:, None]
    if array.ndim not in (2, 4) or 0 in array.shape[1:]:
        raise UserError(
            f"{name} has shape {array.shape}; give vectors [n, d] or images [n, C, H, W]"
        )
    if array.ndim == 4 and array.shape[1] > 4 and array.shape[3] in (1, 3, 4):
        raise UserError(
            f"{name} has shape {array.shape}, which looks like [n, H, W, C]; give [n, C, H, W]"
        )
    if array.ndim == 4:
        if array.dtype.itemsize >= 4 and array.dtype != np.float32:
            _require_float32(array, name)
        array = array.astype(np.uint8 if array.dtype in (np.uint8, bool) else np.float32)
    else:
        array = array.astype(np.float64)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row, *place = np.argwhere(~np.isfinite(array))[0]
        where = f"column {place[0]}" if len(place) == 1 else f"pixel {tuple(map(int, place))}"
        value = array[(row, *place)]
        raise UserError(
            f"{name} holds {value} in row {row}, {where}; leave such rows out of both arrays"
        )
    return np.ascontiguousarray(array)


def _require_float32(images: NDArray[Any], name: str) -> None:
    """`UserError` if float32, in which critics read images, can not hold their differences."""
    if not images.size or not np.isfinite(images).all():
        return  # another check names the place
    size, spread = float(np.abs(images).max()), float(np.ptp(images))
    if size > 1e38 or 0 < size < 1e-30 or 0 < spread < 1e-5 * size:
        raise UserError(
            f"{name} holds pixels that float32 can not tell apart, up to {size:g} with differences"
            f" of at most {spread:g}; subtract their mean or scale them, such as to [0, 1]"
        )
