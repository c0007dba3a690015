"""Paired samples from files: they are read without running code, and refused in one line if no
estimate could be trusted.
"""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core import npz
from core.errors import UserError

Array = NDArray[np.float64]
LEAST = 50
MOST = 2**25  # numbers of a side: a quarter of a GiB as float64
SAVE = "save the pairs by numpy.savez(path, x=x, y=y)"


class PairedSamples(NamedTuple):
    """x [n, dx] and y [n, dy], with remarks for the reader of an estimate."""

    x: Array
    y: Array
    remarks: list[str]


def load_pairs(path: Path) -> tuple[Array, Array]:
    """The arrays `x` and `y` of an npz. `UserError` if the file is not an npz or holds other
    things.
    """

    def pick(records: zipfile.ZipFile) -> tuple[Array, Array]:
        x, y = (npz.array(records, name, path, SAVE, MOST) for name in ("x", "y"))
        return x, y

    both: tuple[Array, Array] = npz.read(path, SAVE, pick)
    return both


def check_pairs(x: ArrayLike, y: ArrayLike, name: str = "pairs") -> PairedSamples:
    """Two arrays of equal length as float64 [n, d]. Copies of a row are left out, and a remark says
    so. `UserError` names what is wrong.
    """
    sides = [_numbers(values, f"{name}: {side}") for side, values in (("x", x), ("y", y))]
    a, b = sides
    if len(a) != len(b):
        raise UserError(
            f"{name}: x has {len(a):,} rows and y {len(b):,}; row i of x belongs to row i of y"
        )
    remarks = []
    joint = np.concatenate([a, b], 1)
    first = np.sort(np.unique(joint, axis=0, return_index=True)[1])
    if len(first) < len(a):
        if all(_quantity(side, first) for side in sides):
            duplicates = len(a) - len(first)
            remarks.append(
                f"{duplicates:,} rows are copies of others and were left out: a critic that trained"
                " on a copy has seen the row"
            )
            a, b = a[first], b[first]
        else:
            remarks.append(
                "values repeat, so equal rows were treated as separate draws; if they are copies of"
                " a row, the estimate is too high"
            )
    if len(a) < LEAST:
        raise UserError(
            f"{name}: {len(a)} distinct pairs are too few to fit and to hold out; give at least"
            f" {LEAST}"
        )
    for side, values in (("x", a), ("y", b)):
        for column in range(values.shape[1]):
            if np.ptp(values[:, column]) == 0:
                raise UserError(
                    f"{name}: column {column} of {side} is constant and has no information; leave"
                    " it out"
                )
    return PairedSamples(a, b, remarks)


def _quantity(side: Array, first: NDArray[np.int64]) -> bool:
    """Whether equal values of a side come from copies of a row: the side has many values, and most
    distinct rows have their own.
    """
    values = max(len(np.unique(column)) for column in side.T)
    return values > np.sqrt(len(side)) and len(np.unique(side[first], axis=0)) > len(first) // 2


def _numbers(values: Any, name: str) -> Array:
    try:
        array = np.asarray(values)
    except (ValueError, TypeError):
        raise UserError(f"{name} is not a rectangular array of numbers") from None
    if array.dtype.kind not in "fiub":
        raise UserError(f"{name} holds {array.dtype}, not real numbers")
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] == 0:
        raise UserError(f"{name} has shape {array.shape}; give [n, d], one sample a row")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise UserError(
            f"{name} holds {array[row, column]} in row {row}, column {column}; leave such rows"
            " out of both arrays"
        )
    return array
