"""A safe reader for files that `torch.save` wrote before torch 1.6: pickles, not zip files.

MoCo's published checkpoints have this format: a magic number, a version, facts about the machine,
a pickle of the values, a pickle of storage names, then the numbers of each storage. Nothing in it
is called or imported (see `core.run.archive`), and no size is trusted unless the file has that many
bytes.
"""

import hashlib
import mmap
import os
import pickletools
import struct
from pathlib import Path
from typing import Any, BinaryIO

from core.run import archive
from core.run.archive import Broken, Record, Storage

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickle of the magic number
ALIGNED = 64  # bytes; a tensor's numbers start at a multiple of it


def is_legacy(path: Path) -> bool:
    """Whether a file begins like one of these."""
    with open(path, "rb") as file:
        return file.read(len(START)) == START


def read(path: Path) -> tuple[Any, str]:
    """The values in a file, on the CPU, and the sha256 of its bytes. Objects become None.

    Raises OSError, `Broken` or `Foreign`.
    """
    with open(path, "rb") as file:
        try:
            magic, version, machine, tree, keys = (_pickle(file) for _ in range(5))
            if (magic, version) != (MAGIC, VERSION) or not machine["little_endian"]:
                raise Broken("it has another version or byte order")
            widths = _widths(tree)
            content, records = _storages(file, keys, widths)
        except (Broken, archive.Foreign, OSError):
            raise
        except Exception as error:  # misplaced instructions can raise any error
            raise Broken(type(error).__name__) from None
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return archive.Builder(content, records, "", inert=True).build(tree, 0), digest


def _pickle(file: BinaryIO) -> Any:
    """The next pickle of the file, which is checked before it is loaded."""
    start = file.tell()
    for _, _, place in pickletools.genops(file):
        if place is not None and place > start + archive.MAX_PICKLE:
            raise Broken("a pickle is too long")
    end = file.tell()
    file.seek(start)
    return archive.unpickled(file.read(end - start), inert=True)


def _widths(tree: Any) -> dict[str, int]:
    """Storage name -> bytes of a number, from the descriptions of all tensors."""
    found: dict[str, int] = {}
    seen: set[int] = set()
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Storage):
            found[value.key] = value.dtype.itemsize
        elif isinstance(value, dict):
            waiting += dict.values(value)
        elif isinstance(value, list | tuple):
            waiting += value
    return found


def _storages(
    file: BinaryIO, keys: list[str], widths: dict[str, int]
) -> tuple[mmap.mmap, dict[str, Record]]:
    """The numbers of all storages, copied to aligned places of one buffer."""
    end = os.fstat(file.fileno()).st_size
    places: list[tuple[int, int]] = []
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        size = count * widths[key]
        if not 0 <= size <= end - file.tell():
            raise Broken("it is cut short")
        places.append((file.tell(), size))
        file.seek(size, os.SEEK_CUR)
    content = mmap.mmap(-1, max(1, sum(size + ALIGNED for _, size in places)))
    records, free = {}, 0
    for key, (start, size) in zip(keys, places, strict=True):
        file.seek(start)
        content[free : free + size] = file.read(size)
        records[key] = Record(free, size)
        free += -(-size // ALIGNED) * ALIGNED
    return content, records
