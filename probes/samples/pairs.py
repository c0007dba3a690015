"""Paired samples from outside: read without running anything, and refused in one line where no
estimate could be trusted.
"""

from core.errors import UserError

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
LEAST = 50


class Pairs(NamedTuple):
    """x [n, dx] and y [n, dy], and what a reader of the estimate should know about them."""

    x: Array
    y: Array
    remarks: list[str]


def load_pairs(path: Path) -> tuple[Array, Array]:
    """The arrays `x` and `y` of an npz. Nothing is ever unpickled; `UserError` where the file is
    none or holds other things.
    """
    try:
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise UserError(
                f"{path}: is no npz of named arrays; save the pairs by numpy.savez(path, x=x, y=y)"
            )
        with opened as file:
            for name in ("x", "y"):
                if name not in file.files:
                    held = ", ".join(file.files) or "nothing"
                    raise UserError(
                        f"{path}: holds {held} and no {name}; save the pairs by numpy.savez(path,"
                        " x=x, y=y)"
                    )
            return file["x"], file["y"]
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: can not be read as npz"
            f" ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from None
    except ValueError as error:
        if "pickle" in str(error).lower() or "object" in str(error).lower():
            raise UserError(
                f"{path}: holds objects, which are refused because reading them could run code;"
                " save plain numbers"
            ) from None
        raise UserError(f"{path}: damaged ({str(error).splitlines()[0]})") from None


def check_pairs(x: ArrayLike, y: ArrayLike, name: str = "pairs") -> Pairs:
    """Two arrays of equal length as float64 [n, d]; copies of a row are taken out and said.
    `UserError` names what is wrong.
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
                "values repeat, so rows that agree were taken for separate draws; copies of a row"
                " would inflate the estimate"
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
                    f"{name}: column {column} of {side} is constant, so it carries nothing; leave"
                    " it out"
                )
    return Pairs(a, b, remarks)


def _quantity(side: Array, first: NDArray[np.int64]) -> bool:
    """Whether equal values of a side come from copies of a row: it takes many values, and mostly
    another one in each distinct row.
    """
    values = max(len(np.unique(column)) for column in side.T)
    return values > np.sqrt(len(side)) and len(np.unique(side[first], axis=0)) > len(first) // 2


def _numbers(values: Any, name: str) -> Array:
    try:
        array = np.asarray(values)
    except (ValueError, TypeError):
        raise UserError(f"{name} is no rectangular array of numbers") from None
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
