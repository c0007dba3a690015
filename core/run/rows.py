"""Arrays with a row an image, kept in one file beside a checkpoint and read again by whoever asks
for the same thing.

A file is a safetensors file. Its rows are written as they come, so that arrays larger than memory
are no harder, and read by memory mapping. Its last bytes are a code of everything before and of the
key, under which the file is kept: a file that this user did not write, that was written for
something else, or that was changed is never read (`core.run.signing`).
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

FORMAT = 1  # part of every key: to be raised when what is kept is computed in another way
NAMES = {torch.float64: "F64", torch.float32: "F32", torch.int64: "I64", torch.uint8: "U8"}
CHUNK = 2**24  # bytes that are signed at a time

Key = dict[str, Any]  # everything that the arrays are a function of, as JSON


class Rows:
    """Named arrays [n, ...] that are filled a batch at a time: `add` batches, then `finish`.

    They lie in memory or, given a path, in the file there.
    """

    def __init__(self, n: int, path: Path | None, key: Key):
        self.n, self.path, self.key, self.done = n, path, key, 0
        self._held: dict[str, Tensor] = {}
        self._places: dict[str, int] = {}
        self._file: int | None = None

    def add(self, batch: dict[str, Tensor]) -> None:
        """The next rows of every array, of a dtype in `NAMES`."""
        rows = {name: x.cpu().contiguous() for name, x in batch.items()}
        if not (self._held or self._places):
            self._open(rows)
        for name, x in rows.items():
            if self._file is None:
                self._held[name][self.done : self.done + len(x)] = x
            else:
                content = x.numpy().data.cast("B")
                place = self._places[name] + self.done * (content.nbytes // len(x))
                while content:
                    written = os.pwrite(self._file, content, place)
                    content, place = content[written:], place + written
        self.done += len(next(iter(rows.values())))

    def finish(self) -> dict[str, Tensor]:
        """The arrays. A file gets its code and its name, and is read by memory mapping."""
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
        """Leave no half of a file behind."""
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
                print(f"{self.path.parent}: nothing is kept there ({error.strerror}); going on")
                self.discard()
        self._held = {name: torch.empty(shapes[name], dtype=x.dtype) for name, x in rows.items()}

    def _create(self, arrays: dict[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
        """The header, and room on the disk for all rows: a full disk is met here and not later."""
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
    """The arrays of a file that this user wrote under this key, {name: Tensor}, or None.

    `shapes` says the rank and the known sizes of each; a file with anything else is not read.
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
    """A file name for what is kept under a key."""
    return hashlib.sha256(_text(key)).hexdigest()[:20]


def _mapped(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys() if name != "code"}  # noqa: SIM118


def _signed(path: Path, key: Key) -> Iterator[bytes | memoryview]:
    """What the code of a file is a code of: the key, and the file without its last bytes."""
    yield _text(key)
    end = path.stat().st_size - LENGTH
    with open(path, "rb") as file:
        for start in range(0, end, CHUNK):
            yield file.read(min(CHUNK, end - start))


def _text(key: Key) -> bytes:
    return json.dumps(key | {"kept": FORMAT}, sort_keys=True).encode()
