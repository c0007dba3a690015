"""Which file of torchvision's small sets is missing, cut short or changed, after its reader failed.

torchvision's own messages, such as "shape '[200, 28, 28]' is invalid", name no file.
"""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.data.notes import printable

BYTES = {8: 1, 9: 1, 11: 2, 12: 4, 13: 4, 14: 8}  # of a value, by the third byte of an idx file
PACKED = "is not unpacked; call gunzip -k on it"


def said_of_broken(kind: Any, root: Path) -> str:
    """The first file of a set that can not be right: its path, what is wrong and what to do; "" if
    none is found. `kind`: a class of torchvision.datasets, whose files lie in `root`.
    """
    remedy = "put the whole file there, or remove it and set data.download=true"
    try:
        found = list(_broken(kind, root))
    except OSError as error:
        reason = f"can not be read ({error.strerror})"
        return f"{printable(error.filename or root)} {reason}; {remedy}"
    for path, reason in sorted(found, key=lambda one: one[1] == PACKED):
        return f"{printable(path)} {reason}" + (f"; {remedy}" if reason != PACKED else "")
    return ""


def _broken(kind: Any, root: Path) -> Iterator[tuple[Path, str]]:
    if hasattr(kind, "resources"):  # MNIST and its relatives
        folder = root / kind.__name__ / "raw"
        names = [Path(name).stem for name, _ in kind.resources]
        if not any(folder.glob("*")):
            return  # the set is not there at all
        for name in names:
            yield from _of_idx(folder / name)
        return
    folder = root / getattr(kind, "base_folder", "")
    listed = [*getattr(kind, "train_list", ()), *getattr(kind, "test_list", ())]
    if not listed or not folder.is_dir():
        return
    for name, md5 in listed:
        path = folder / name
        if not path.is_file():
            yield path, "is missing"
        elif _md5(path) != md5:
            yield path, f"is cut short or changed ({path.stat().st_size:,} bytes, another MD5)"


def _of_idx(path: Path) -> Iterator[tuple[Path, str]]:
    """What is wrong with an idx file, or with the .gz that stands in its place."""
    packed = path.with_name(f"{path.name}.gz")
    if path.is_file():
        size = path.stat().st_size
        with open(path, "rb") as file:
            wanted = _length(file.read(4 + 4 * 255))
        if wanted is None:
            yield path, "does not begin as an idx file" if size >= 4 else f"has only {size} bytes"
        elif size != wanted:
            word = "is cut short" if size < wanted else "is too long"
            yield path, f"{word} ({size:,} of {wanted:,} bytes)"
    elif not packed.is_file():
        yield path, "is missing"
    else:
        try:
            with gzip.open(packed) as file:
                while file.read(2**20):
                    pass
            yield packed, PACKED
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            yield packed, f"is cut short or changed ({printable(error)})"


def _length(head: bytes) -> int | None:
    """The length in bytes of an idx file that begins with `head`; None for another file."""
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in BYTES or not 1 <= head[3] <= 3:
        return None
    start = 4 + 4 * head[3]
    if len(head) < start:
        return start  # the header itself is cut short
    return start + BYTES[head[2]] * math.prod(struct.unpack(f">{head[3]}I", head[4:start]))


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
