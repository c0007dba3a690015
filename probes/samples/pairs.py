"""Paired samples from files: they are read without running code, and refused in one line if no
estimate could be trusted.
"""

import math
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format
from numpy.typing import ArrayLike, NDArray

from core.errors import UserError, shown

Array = NDArray[np.float64]
LEAST = 50
MOST = 2**25  # numbers of a side: a quarter of a GiB as float64
MAGIC = b"\x93NUMPY"  # the first bytes of an npy file, which holds one array
SAVE = "save the pairs by numpy.savez(path, x=x, y=y)"


class PairedSamples(NamedTuple):
    """x [n, dx] and y [n, dy], with remarks for the reader of an estimate."""

    x: Array
    y: Array
    remarks: list[str]


def load_pairs(path: Path) -> tuple[Array, Array]:
    """The arrays `x` and `y` of an npz. Nothing is unpickled, and no more memory is allocated than
    the size of the file justifies. `UserError` if the file is not an npz or holds other things.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    try:
        with open(path, "rb") as file:
            if file.read(6) == MAGIC:
                raise UserError(f"{path}: is not an npz of named arrays; {SAVE}")
            with zipfile.ZipFile(file) as records:
                x, y = (_array(records, name, path) for name in ("x", "y"))
                return x, y
    except UserError:
        raise
    except Exception as error:  # damaged bytes can raise anything in zipfile, zlib and numpy
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        said = reason.splitlines()[0][:200]
        raise UserError(f"{path}: can not be read as npz ({said})") from None


def _array(records: zipfile.ZipFile, name: str, path: Path) -> Array:
    """One array of the npz, after a check that its header, its record and the file's size agree."""
    found = [info for info in records.infolist() if info.filename == f"{name}.npy"]
    if len(found) != 1:
        held = ", ".join(info.filename.removesuffix(".npy") for info in records.infolist()[:10])
        several = "several" if found else "no"
        raise UserError(f"{path}: holds {held[:200] or 'nothing'} and {several} {name}; {SAVE}")
    info = found[0]
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{path}: {name} is compressed in a way that numpy does not use")
    with records.open(info) as record:
        header = (format.read_array_header_1_0, format.read_array_header_2_0)
        version = format.read_magic(record)
        if version[0] not in (1, 2):
            raise UserError(f"{path}: {name} is of numpy's format {version[0]}, not 1 or 2")
        shape, by_columns, dtype = header[version[0] - 1](record)
        if dtype.hasobject:
            raise UserError(
                f"{path}: holds objects, which are refused because reading them could run code;"
                " save plain numbers"
            )
        count = math.prod(shape)
        if dtype.kind not in "fiub" or count > MOST or len(shape) > 2 or min(shape, default=1) < 0:
            raise UserError(
                f"{path}: {name} is {shown(dtype.name)} of shape {shown(shape)}; give [n, d] real"
                f" numbers, at most {MOST:,}"
            )
        size = count * dtype.itemsize
        if info.file_size - record.tell() != size or info.compress_size * 1100 < size:
            raise UserError(
                f"{path}: {name} claims the shape {shown(shape)}, but the file holds"
                f" {info.compress_size:,} bytes of it"
            )
        values = np.frombuffer(record.read(size), dtype=dtype, count=count)
        if record.read(1):  # reads to the end, so that the checksum is compared
            raise UserError(f"{path}: {name} is longer than it says")
    return values.reshape(shape, order="F" if by_columns else "C")


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
