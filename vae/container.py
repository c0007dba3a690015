"""The file of a bits-back codec: a header, blocks that can be decoded independently, and checksums.

    header   magic, format version, source of the images (npz or png), spacing and reach of the
             grid, C H W, number of images, images per block, images per batch, SHA-256 of the
             model; CRC-32 of these bytes
    block    number of images, words and lanes, length of the heads, CRC-32 of the decoded pixels;
             words, heads; CRC-32 of all of it
    end      CRC-32 of all bytes before

Integers are little-endian. A file may have any origin, so all numbers in it are compared with
its size before anything is allocated or decoded.
"""

import dataclasses
import hashlib
import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import UserError
from vae import lengths, partial
from vae.ans import MOST_LANES, Broken, Stack, heads_as_bytes, heads_from_bytes
from vae.bitsback import BitsBack, Done, Images, Parts
from vae.grid import Grid
from vae.lengths import Codes
from vae.unfinished import Unfinished

MAGIC, VERSION = b"\x93TWOBITS", 2
HEADER = struct.Struct("<8sHBBBHHHQIH32s")
BLOCK = struct.Struct("<IIHHI")
CRC = struct.Struct("<I")
KINDS = ("npz", "png")
MOST_IMAGES = 2**16  # of a block
DEFAULT_BLOCK = 4096
CHUNK = 2**24
DRAWS = 32  # codes of one image, over which its D + R is averaged


class Header(NamedTuple):
    """The header: what a file claims to hold."""

    kind: int  # place in KINDS
    spacing: int
    reach: int
    channels: int
    height: int
    width: int
    total: int  # images
    block: int  # images of a block
    batch: int  # images of a batch of the stack's schedule
    model: bytes  # `fingerprint` of the model

    @property
    def grid(self) -> Grid:
        return Grid(self.spacing, self.reach)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    def packed(self) -> bytes:
        head = HEADER.pack(MAGIC, VERSION, *self)
        return head + CRC.pack(zlib.crc32(head))


class Block(NamedTuple):
    """The place of a block in its file, and its sizes and checksum."""

    offset: int  # of its words
    images: int
    words: int
    lanes: int
    heads: int  # bytes
    pixels: int  # CRC-32

    @property
    def size(self) -> int:
        return 4 * self.words + self.heads


def fingerprint(method: Any) -> bytes:
    """SHA-256 of a method's weights, shape and settings. The rate's schedule is left out."""
    settings = dataclasses.asdict(method.config)
    settings.pop("rate", None)
    facts = [type(method).__name__, list(method.shape), settings]
    total = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, weight in sorted(method.state_dict().items()):
        if not name.startswith("schedule."):
            total.update(f"{name} {weight.dtype} {list(weight.shape)}\n".encode())
            total.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return total.digest()


def write(
    file: BinaryIO, codec: BitsBack, model: bytes, blocks: Iterable[Images], count: int,
    block: int = DEFAULT_BLOCK, kind: str = "npz", done: Done = int, check: bool = False,
    seen: Callable[[Codes], object] = len, earlier: Unfinished | None = None,
) -> Parts:  # fmt: skip
    """Write the file of `count` images, which come in blocks of `block` images (the last block may
    be smaller). With `check`, each block is decoded before the next block is coded. `seen` is
    called with the codes [n, L] of each new block. Blocks of an `earlier` call are not coded again.
    Returns the numbers of popped and pushed bits.
    """
    total, whole, header = Parts(), 0, None
    for images in blocks:
        if header is None:
            codec.check(images)
            grid = codec.grid(images[:512])
            facts = (KINDS.index(kind), *grid, *codec.shape, count, block, codec.batch, model)
            header = Header(*facts)
            whole = _put(file, header.packed(), whole)
        found = earlier.take(header.packed(), images) if earlier else None
        if found:
            done(len(images))
            data, parts = found
        else:
            data, parts = _coded(codec, header.grid, images, done, check, seen)
            if earlier:
                earlier.keep(header.packed(), images, data, parts)
        total = total.plus(parts)
        whole = _put(file, data, whole)
    if header is None:
        raise UserError("there are no images to compress")
    file.write(CRC.pack(whole))
    return total


def _coded(
    codec: BitsBack, grid: Grid, images: Images, done: Done, check: bool,
    seen: Callable[[Codes], object],
) -> tuple[bytes, Parts]:  # fmt: skip
    """A block with its checksum, and the numbers of popped and pushed bits."""
    stack, parts, cells = codec.encode(images, grid, done)
    seen(grid.codes(cells))
    heads, pixels = heads_as_bytes(stack.heads), zlib.crc32(images.tobytes())
    words = stack.words.astype("<u4").tobytes()
    head = BLOCK.pack(len(images), len(words) // 4, len(stack.heads), len(heads), pixels)
    body = head + words + heads
    if check and not np.array_equal(codec.decode(stack, grid, len(images)), images):
        raise UserError("a block does not decode to its images; please report this")
    return body + CRC.pack(zlib.crc32(body)), parts


def _put(file: BinaryIO, data: bytes, crc: int) -> int:
    file.write(data)
    return zlib.crc32(data, crc)


class Reader:
    """An open file whose checksums, sizes and counts agree; `UserError` names what is wrong."""

    def __init__(self, path: str | Path, file: BinaryIO):
        self.path, self.file = path, file
        self.size = os.fstat(file.fileno()).st_size if hasattr(file, "name") else _length(file)
        self.header = self._header()
        self._require_whole()
        self.blocks = list(self._index())

    def check_model(self, model: bytes) -> None:
        """`UserError` if another model wrote the file."""
        if model != self.header.model:
            raise UserError(
                f"{self.path}: was written with another model ({self.header.model.hex()[:12]}, not"
                f" {model.hex()[:12]}); name the checkpoint with which it was compressed"
            )

    def decode(self, codec: BitsBack, number: int, done: Done = int) -> Images:
        """The images of a block [n, C, H, W]."""
        block, grid = self.blocks[number], self.header.grid
        self.file.seek(block.offset)
        words = np.frombuffer(self._read(4 * block.words), "<u4")
        try:
            heads = heads_from_bytes(self._read(block.heads), block.lanes)
            images = codec.decode(Stack(words, heads), grid, block.images, done)
            if zlib.crc32(images.tobytes()) != block.pixels:
                raise Broken("the decoded pixels have another checksum")
        except Broken as error:
            first = number * self.header.block
            raise UserError(
                f"{self.path}: block {number} (images {first} to {first + block.images - 1}) is"
                f" intact, but can not be decoded here ({error}): this machine computes other"
                " numbers than the machine that compressed it; decompress it there"
            ) from None
        return images

    def _header(self) -> Header:
        data = self._read(HEADER.size + CRC.size)
        if data[:8] != MAGIC:
            raise UserError(f"{self.path}: was not written by `compress`")
        fields = HEADER.unpack_from(data)
        if fields[1] != VERSION:
            raise UserError(
                f"{self.path}: has format version {fields[1]}, but this program reads {VERSION};"
                " use the version of twobounds that wrote it"
            )
        if CRC.unpack_from(data, HEADER.size)[0] != zlib.crc32(data[: HEADER.size]):
            raise self._damaged("the checksum of its header is wrong")
        header = Header(*fields[2:])
        sane = (
            header.kind < len(KINDS)
            and header.grid.is_valid()
            and 1 <= header.block <= MOST_IMAGES
            and header.total >= 1
            and header.batch >= 1
        )
        if not sane:
            raise self._damaged("its header holds impossible numbers")
        return header

    def _require_whole(self) -> None:
        """Compare the last four bytes with the checksum of all bytes before."""
        self.file.seek(0)
        left, crc = self.size - CRC.size, 0
        while left > 0:
            part = self._read(min(CHUNK, left))
            crc, left = zlib.crc32(part, crc), left - len(part)
        if CRC.unpack(self._read(CRC.size))[0] != crc:
            raise self._damaged("its checksum is wrong")

    def _index(self) -> Iterator[Block]:
        """The blocks. Their sizes must add up to that of the file."""
        offset, end, left = HEADER.size + CRC.size, self.size - CRC.size, self.header.total
        least = BLOCK.size + CRC.size
        if (end - offset) // least * self.header.block < left:
            raise self._damaged(f"it claims {left:,} images, but is too short for them")
        while left:
            self.file.seek(offset)
            if end - offset < least:
                raise self._damaged(f"{left:,} images are missing")
            data = self._read(BLOCK.size)
            block = Block(offset + BLOCK.size, *BLOCK.unpack(data))
            expected = min(left, self.header.block)
            fits = block.size <= end - offset - least and block.images == expected
            if not fits or not 1 <= block.lanes <= MOST_LANES:
                raise self._damaged("a block holds impossible numbers")
            crc = zlib.crc32(self._read(block.size), zlib.crc32(data))
            if CRC.unpack(self._read(CRC.size))[0] != crc:
                raise self._damaged("a block has a wrong checksum")
            yield block
            offset, left = offset + least + block.size, left - block.images
        if offset != end:
            raise self._damaged("it is longer than its header says")

    def _read(self, size: int) -> bytes:
        data = self.file.read(size)
        if len(data) != size:
            raise self._damaged("it is cut short")
        return data

    def _damaged(self, reason: str) -> UserError:
        return UserError(f"{self.path}: is damaged: {reason}; copy it again from an undamaged copy")


class Packed(NamedTuple):
    """A file in memory."""

    data: bytes
    moved: Parts
    codes: Codes  # of its images [n, L]


class Packer(BitsBack):
    """A codec that writes and reads files in memory (`core.method.Compressor`)."""

    def pack(self, images: Images, block: int = DEFAULT_BLOCK) -> Packed:
        file, codes = io.BytesIO(), list[Codes]()
        given = blocks_of(images, block)
        model = fingerprint(self.method)
        moved = write(file, self, model, given, len(images), block, seen=codes.append)
        return Packed(file.getvalue(), moved, np.concatenate(codes))

    def unpack(self, data: bytes) -> Images:
        reader = Reader("the file", io.BytesIO(data))
        reader.check_model(fingerprint(self.method))
        codec = BitsBack(self.method, self.rows, reader.header.batch)
        return np.concatenate([reader.decode(codec, i) for i in range(len(reader.blocks))])

    def bound(self, images: Images, seed: int = 0, samples: int = 4) -> lengths.Bound:
        return lengths.bound(self, images, seed, samples)

    def at_codes(self, images: Images, codes: Codes) -> NDArray[np.float64]:
        return lengths.at_codes(self, images, codes)

    def moves(self, images: Images) -> list[dict[str, float]]:
        found = []
        for link in lengths.moves(self, images):
            own = self.bound(images[link.image : link.image + 1], samples=DRAWS)
            numbers = link.parts.as_numbers() | {"d": own.floored, "r": own.r}
            found.append({"image": link.image, "content": link.content} | numbers)
        return found

    def partial(
        self, images: Images, stops: Sequence[int] | None = None, seed: int = 0
    ) -> list[dict[str, Any]]:
        return [part._asdict() for part in partial.partial(self, images, stops, seed)]


@contextmanager
def opened(path: Path) -> Iterator[Reader]:
    """A reader of a file; `UserError` if the file is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    with open(path, "rb") as file:
        yield Reader(path, file)


def _length(file: BinaryIO) -> int:
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    return end


def blocks_of(images: Images, block: int) -> Iterator[Images]:
    """Images in blocks."""
    return (images[first : first + block] for first in range(0, len(images), block))
