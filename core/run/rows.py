"""Arrays with one row per image, kept in a file beside a checkpoint, and read again later.

The file has safetensors format. Each batch of rows is written at once, and rows are read by memory
mapping, so arrays may be larger than memory. The last bytes are a signature of the file and its key
(`core.run.signing`). A file is never used if another user wrote it, if it belongs to another key,
or if it was changed.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.run.signing import LENGTH, is_own, sign

FORMAT = 2  # part of every key; increase it if the code computes other arrays for the same key
NAMES = {torch.float64: "F64", torch.float32: "F32", torch.int64: "I64", torch.uint8: "U8"}
CHUNK = 2**24  # bytes signed at a time

Key = dict[str, Any]  # everything that determines the arrays, as JSON


class Rows:
    """Named arrays [n, ...], in memory or in a file. Call `add` for each batch of rows, then
    `finish`.
    """

    def __init__(self, n: int, path: Path | None, key: Key):
        self.n, self.path, self.key, self.done = n, path, key, 0
        self._held: dict[str, Tensor] = {}
        self._places: dict[str, int] = {}
        self._file: int | None = None

    def add(self, batch: dict[str, Tensor]) -> None:
        """Add the next rows of every array, with dtypes in `NAMES`."""
        rows = {name: x.cpu().contiguous() for name, x in batch.items()}
        if not (self._held or self._places):
            self._open(rows)
        for name, x in rows.items():
            if self._file is None:
                self._held[name][self.done : self.done + len(x)] = x
            elif x.numel():  # an array without columns has no bytes
                content = x.numpy().data.cast("B")
                place = self._places[name] + self.done * (content.nbytes // len(x))
                while content:
                    written = os.pwrite(self._file, content, place)
                    content, place = content[written:], place + written
        self.done += len(next(iter(rows.values())))

    def finish(self) -> dict[str, Tensor]:
        """Sign the file, give it its name and map it into memory. Returns the arrays."""
        assert self.done == self.n, f"{self.done} of {self.n} rows"
        if self._file is None or self.path is None:
            return self._held
        os.pwrite(self._file, sign(_signed(self._temporary, self.key)) or b"", self._end)
        os.fsync(self._file)
        os.close(self._file)
        self._file = None
        os.replace(self._temporary, self.path)
        return _mapped(self.path)

    def discard(self) -> None:
        """Remove an unfinished file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._temporary.unlink(missing_ok=True)

    def _open(self, rows: dict[str, Tensor]) -> None:
        shapes = {name: (self.n, *x.shape[1:]) for name, x in rows.items()}
        if self.path is not None and sign([b""]) is not None:
            try:
                self._create({name: (x.dtype, shapes[name]) for name, x in rows.items()})
                return
            except OSError as error:
                print(f"{self.path.parent}: no results can be kept there ({error.strerror})")
                self.discard()
        self._held = {name: torch.empty(shapes[name], dtype=x.dtype) for name, x in rows.items()}

    def _create(self, arrays: dict[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
        """Write the header and reserve disk space for all rows, so that a full disk fails early."""
        assert self.path is not None
        header: dict[str, Any] = {}
        end = 0
        arrays = arrays | {"code": (torch.uint8, (LENGTH,))}
        for name, (dtype, shape) in arrays.items():
            start, end = end, end + dtype.itemsize * torch.Size(shape).numel()
            header[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        first = 8 + len(text)
        self._places = {name: first + found["data_offsets"][0] for name, found in header.items()}
        self._end = self._places["code"]
        self.path.parent.mkdir(exist_ok=True)
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._file = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.posix_fallocate(self._file, 0, self._end + LENGTH)
        os.pwrite(self._file, struct.pack("<Q", len(text)) + text, 0)


def kept(path: Path, key: Key, shapes: dict[str, tuple[int | None, ...]]) -> Any:
    """The arrays {name: Tensor} of a file that this user wrote under this key, or None.

    `shapes`: the rank and the known sizes of each array; a file with other arrays is not read.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            code = os.pread(file.fileno(), LENGTH, max(0, size - LENGTH))
        if not is_own(_signed(path, key), code):
            return None
        found = _mapped(path)
    except (OSError, ValueError, SafetensorError):
        return None
    wanted = {
        name: len(x.shape) == len(shapes[name])
        and all(size in (None, own) for size, own in zip(shapes[name], x.shape, strict=True))
        for name, x in found.items()
        if name in shapes
    }
    return found if wanted.keys() == shapes.keys() and all(wanted.values()) else None


def name_of(key: Key) -> str:
    """The file name for a key."""
    return hashlib.sha256(_text(key)).hexdigest()[:20]


def _mapped(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys() if name != "code"}  # noqa: SIM118


def _signed(path: Path, key: Key) -> Iterator[bytes | memoryview]:
    """The signed bytes of a file: the key, and the file without its signature."""
    yield _text(key)
    end = path.stat().st_size - LENGTH
    with open(path, "rb") as file:
        for start in range(0, end, CHUNK):
            yield file.read(min(CHUNK, end - start))


def _text(key: Key) -> bytes:
    return json.dumps(key | {"kept": FORMAT}, sort_keys=True).encode()
