"""A safe reader for files of `torch.save`: it accepts only tensors and plain values.

A file may come from a stranger, so nothing in it is called, decompressed or trusted. The zip's
records must be uncompressed, must not overlap, and must match their checksums. The pickle may use
only the instructions and names that `torch.save` uses for tensors and containers. A tensor must lie
inside its record without gaps. `torch.load` checks less: it reads past the end of a short record,
and allocates any size that a file asks for.

Checkpoints of other programs also hold objects, such as their options. With `inert=True` each
object becomes None; nothing of it is imported or called.
"""

import hashlib
import io
import mmap
import os
import pickle
import pickletools
import re
import struct
import sys
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

MAX_RECORDS = 20_000
MAX_PICKLE = 2**26  # bytes of the pickle, which holds no tensor data
MAX_VALUES = 100_000
DEPTH = 50
INSTRUCTIONS = """
    PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE
    EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT SETITEM SETITEMS
    BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL REDUCE BUILD BINPERSID
"""
ALLOWED = frozenset(INSTRUCTIONS.split())
# Instructions that build objects and bytes. `pickletools` refuses sizes beyond the pickle's end.
OBJECTS = """
    NEWOBJ NEWOBJ_EX STACK_GLOBAL MEMOIZE FRAME SHORT_BINUNICODE BINUNICODE8 LONG4 BINBYTES
    SHORT_BINBYTES BINBYTES8 BINSTRING SHORT_BINSTRING EMPTY_SET ADDITEMS FROZENSET POP POP_MARK DUP
"""
ALLOWED_INERT = ALLOWED | frozenset(OBJECTS.split())
# Errors that `zipfile` and `struct` raise for damaged files.
DAMAGE: tuple[type[Exception], ...] = (zipfile.BadZipFile, struct.error, ValueError, OSError)
DAMAGE += (OverflowError, NotImplementedError, EOFError)
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Broken(Exception):
    """The file is damaged, or `torch.save` did not write it."""


class Foreign(Exception):
    """The file is intact, but holds something other than tensors and plain values."""


class Inert:
    """Stands for any object of a pickle, and for its class: it accepts everything and keeps
    nothing.
    """

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        return object.__new__(cls)

    def ignore(self, *_: Any, **__: Any) -> "Inert":
        return self

    __call__ = __setstate__ = __setitem__ = append = extend = add = ignore

    def __init__(self, *_: Any, **__: Any) -> None:
        pass


class Record(NamedTuple):
    """The place of a zip record's bytes in the file."""

    start: int
    size: int


class Storage(NamedTuple):
    """A pickle's description of a block of numbers."""

    key: str
    dtype: torch.dtype
    numel: int


class Declared(NamedTuple):
    """A pickle's description of a tensor."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read(path: Path, inert: bool = False) -> tuple[Any, str]:
    """The values in a file, on the CPU, and the sha256 of the bytes that were read.

    Tensors share one buffer of the file's size. `inert`: objects become None; without it they are
    refused. Raises OSError, `Broken` or `Foreign`.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - 22))
        if not (end := file.read()).startswith(b"PK\5\6"):  # checked before memory is allocated
            raise Broken("it does not end like a zip file" if end else "it is empty")
        file.seek(0)
        content = mmap.mmap(-1, size)  # page-aligned memory
        if file.readinto(content) != size or file.read(1):
            raise Broken("its size changed while it was read")
    return values(content, inert), hashlib.sha256(content).hexdigest()


def values(content: mmap.mmap, inert: bool = False) -> Any:
    """The values in the bytes of a file. Raises `Broken` or `Foreign`."""
    try:
        records = _records(content)
        (name,) = (name for name in records if name.endswith("/data.pkl") and name.count("/") == 1)
    except DAMAGE as error:
        raise Broken(str(error)) from None
    folder = name.removesuffix("data.pkl")
    order = records.get(f"{folder}byteorder")
    if order and content[order.start : order.start + order.size] != sys.byteorder.encode():
        raise Foreign("numbers with another byte order")
    start, size = records[name]
    if size > MAX_PICKLE:
        raise Foreign(f"{size:,} bytes that are not tensor data")
    try:
        tree = unpickled(bytes(content[start : start + size]), inert)
    except Foreign:
        raise
    except Exception as error:  # misplaced instructions raise any error of the unpickler
        raise Broken(f"{type(error).__name__}") from None
    return Builder(content, records, f"{folder}data/", inert).build(tree, 0)


def _records(content: mmap.mmap) -> dict[str, Record]:
    """The zip's records by name: uncompressed, without overlap, with right checksums."""
    for number, _ in enumerate(re.finditer(rb"PK\x01\x02", content)):
        if number == MAX_RECORDS:
            raise Broken("it has too many records")
    found: dict[str, Record] = {}
    with zipfile.ZipFile(cast(Any, content)) as file, memoryview(content) as view:
        free = 0  # the end of the earlier records
        for info in sorted(file.infolist(), key=lambda info: info.header_offset):
            name, at = info.filename, info.header_offset
            stored = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
            if not stored or info.compress_size != info.file_size:
                raise Broken(f"its record {name[:100]} is compressed")
            signature, name_size, extra_size = struct.unpack_from("<4s22xHH", content, at)
            start = at + 30 + name_size + extra_size
            if (
                signature != b"PK\3\4"
                or at < free
                or start + info.file_size > file.start_dir
                or content[at + 30 : at + 30 + name_size] != name.encode()
                or name in found
            ):
                raise Broken(f"its record {name[:100]} is not where it should be")
            if info.external_attr & 0x10 or name.endswith("/"):
                raise Broken(f"its record {name[:100]} says that it is a folder")
            free = start + info.file_size
            if zlib.crc32(view[start:free]) != info.CRC:
                raise Broken(f"the checksum of its record {name[:100]} is wrong")
            found[name] = Record(start, info.file_size)
    return found


def unpickled(text: bytes, inert: bool = False) -> Any:
    """The tree of a pickle, with descriptions in place of tensors. Raises `Foreign` or
    `Broken`; misplaced instructions raise any error of the unpickler.
    """
    allowed = ALLOWED_INERT if inert else ALLOWED
    for instruction, argument, _ in pickletools.genops(text):
        if instruction.name not in allowed:
            raise Foreign(f"the pickle instruction {instruction.name}")
        if instruction.name == "LONG_BINPUT" and cast(int, argument) >= len(text):
            raise Broken("a memo number in its pickle is too large")
    return _Unpickler(io.BytesIO(text), inert).load()


class _Unpickler(pickle.Unpickler):
    """Accepts containers and descriptions of tensors. It imports nothing."""

    def __init__(self, file: io.BytesIO, inert: bool):
        super().__init__(file, encoding="latin-1")
        self.inert = inert

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _declared
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if self.inert:
            return _parameter if name == "_rebuild_parameter" else Inert
        raise Foreign(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, count = pid[:5]  # the older format adds the place in a larger storage
        sized = type(key) is str and type(count) is int and count >= 0
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not sized:
            raise Broken("its pickle describes no storage")
        return Storage(key, dtype, count)


def _declared(
    storage: Any, offset: Any, size: Any, stride: Any, _: Any, hooks: Any, metadata: Any = None
) -> Declared:
    """Replaces torch's function of seven arguments that builds a tensor."""
    if hooks or metadata:
        raise Foreign("a tensor with hooks or additional properties")
    sides = (size, stride)
    if not (
        isinstance(storage, Storage)
        and type(offset) is int
        and offset >= 0
        and all(
            type(side) is tuple and all(type(n) is int and n >= 0 for n in side) for side in sides
        )
        and len(size) == len(stride) <= 32
    ):
        raise Broken("its pickle describes no tensor")
    return Declared(storage, offset, size, stride)


def _parameter(data: Any, *_: Any) -> Any:
    """Replaces torch's function that makes a tensor a parameter."""
    return data


class Builder:
    """Builds values from an unpickled tree: copied containers, and tensors on the file's bytes."""

    def __init__(
        self, content: mmap.mmap, records: dict[str, Record], folder: str, inert: bool = False
    ):
        self.content, self.records, self.folder, self.inert = content, records, folder, inert
        self.left = MAX_VALUES

    def build(self, value: Any, depth: int) -> Any:
        self.left -= 1
        if self.left < 0 or depth > DEPTH:
            raise Foreign("more values, or deeper nesting, than checkpoints have")
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if kind is Declared:
            return self._tensor(value)
        if kind in (list, tuple):
            return kind(self.build(item, depth + 1) for item in value)
        if kind in (dict, OrderedDict):
            made = {}
            for key, item in dict.items(value):
                if type(key) not in (str, int):
                    if self.inert:
                        continue
                    raise Foreign(f"a key that is a {type(key).__name__}")
                made[key] = self.build(item, depth + 1)
            return made
        if self.inert:
            return None
        raise Foreign(f"a {kind.__name__}")

    def _tensor(self, declared: Declared) -> Tensor:
        storage, offset, size, stride = declared
        record = self.records.get(f"{self.folder}{storage.key}")
        width = storage.dtype.itemsize
        if (
            record is None
            or record.size != storage.numel * width
            or (record.size and record.start % width)
        ):
            raise Broken("the record of a tensor is missing or of another size")
        room = end = 1  # how many numbers the dimensions so far span
        for step, n in sorted(zip(stride, size, strict=True)):
            if n > 1 and step < room:
                raise Foreign("a tensor that repeats its numbers")
            room, end = max(room, step * n), end + (n - 1) * step
        if 0 in size:
            return torch.empty(size, dtype=storage.dtype)
        if offset + end > storage.numel:
            raise Broken("a tensor is larger than its record")
        flat = torch.frombuffer(
            self.content, dtype=storage.dtype, count=storage.numel, offset=record.start
        )
        if storage.dtype == torch.bool and (flat.view(torch.uint8) > 1).any():
            raise Broken("a tensor of booleans holds other numbers")
        return flat.as_strided(size, stride, offset)
