"""Arrays from an npz of unknown origin: nothing is unpickled, and no more memory is allocated than
the size of the file justifies.
"""

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format

from core.errors import UserError, shown

MAGIC = b"\x93NUMPY"  # the first bytes of an npy file, which holds one array


def read(path: Path, save: str, pick: Callable[[zipfile.ZipFile], Any]) -> Any:
    """`pick` applied to the records of the file. `UserError` for anything that is not an npz;
    `save` says how to make one.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    try:
        with open(path, "rb") as file:
            if file.read(6) == MAGIC:
                raise UserError(f"{path}: is not an npz of named arrays; {save}")
            with zipfile.ZipFile(file) as records:
                return pick(records)
    except UserError:
        raise
    except Exception as error:  # damaged bytes can raise anything in zipfile, zlib and numpy
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        said = reason.splitlines()[0][:200]
        raise UserError(f"{path}: can not be read as npz ({said}); write it again") from None


def names(records: zipfile.ZipFile) -> list[str]:
    """The names of the arrays."""
    return [info.filename.removesuffix(".npy") for info in records.infolist()]


def array(
    records: zipfile.ZipFile,
    name: str,
    path: Path,
    save: str,
    most: int,
    rank: int = 2,
    kinds: str = "fiub",
) -> np.ndarray[Any, Any]:
    """One array, after a check that its header, its record and the file's size agree.

    It has at most `most` numbers in at most `rank` dimensions, of numpy's `kinds`.
    """
    found = [info for info in records.infolist() if info.filename == f"{name}.npy"]
    if len(found) != 1:
        held = ", ".join(names(records)[:10])
        several = "several" if found else "no"
        raise UserError(
            f"{path}: holds {several} {name} (its arrays: {held[:200] or 'none'}); {save}"
        )
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
        sized = count <= most and len(shape) <= rank and min(shape, default=1) >= 0
        if dtype.kind not in kinds or not sized:
            raise UserError(
                f"{path}: {name} is {shown(dtype.name)} of shape {shown(shape)}; give"
                f" {_wanted(most, rank, kinds)}"
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


def _wanted(most: int, rank: int, kinds: str) -> str:
    """What an array must hold, in words."""
    noun = {"U": "text", "u": "unsigned integer"}.get(kinds, "real number")
    if rank == 0:
        return f"one {noun}"
    shapes = {1: "[n]", 2: "[n, d]", 3: "[n, v, d]", 4: "[n, d] or, for images, [n, C, H, W]"}
    return f"at most {most:,} {noun}s, of shape {shapes[rank]}"
