"""The coded blocks of a file that is not complete yet, with which an interrupted call can continue.

A second file, beside the file that is being made, holds one record per block. A record consists of
the block's length, its numbers of popped and pushed bits, its bytes, and a signature
(`core.run.signing`). The signature also
covers what the block was computed from: the header of the file (model, grid, sizes), the block's
place and its images. So a record of other images, of another model or of another user is never
used.
"""

import fcntl
import hashlib
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from core.errors import UserError
from core.run.signing import LENGTH, is_own, sign
from vae.bitsback import Images, Parts

RECORD = struct.Struct("<Idddd")  # bytes of the block; popped, pixels, prior, start


class Unfinished:
    """Coded blocks, in order. `take` returns the next kept block, and `keep` adds a new block."""

    def __init__(self, file: FileIO):
        self.file, self.blocks, self.images = file, 0, 0
        self.taken = 0  # images of an earlier call
        self.full = False

    def take(self, header: bytes, images: Images) -> tuple[bytes, Parts] | None:
        """The next block and its numbers of bits, if it was computed from this header and these
        images. Otherwise None is returned, and all later records are deleted.
        """
        place = self.file.tell()
        head = self.file.read(RECORD.size)
        if len(head) == RECORD.size:
            size, *numbers = RECORD.unpack(head)
            left = os.fstat(self.file.fileno()).st_size - place - RECORD.size
            if size + LENGTH <= left:
                block, code = self.file.read(size), self.file.read(LENGTH)
                if is_own(self._signed(header, head, block, images), code):
                    self._count(images)
                    self.taken += len(images)
                    popped, pixels, prior, start = numbers
                    return block, Parts(popped, pixels, prior, int(start))
        self.file.seek(place)
        self.file.truncate()
        return None

    def keep(self, header: bytes, images: Images, block: bytes, moved: Parts) -> None:
        """Add a block. Nothing is kept if this user has no key, or once the disk is full."""
        head = RECORD.pack(len(block), *moved)
        code = sign(self._signed(header, head, block, images))
        if code is None or self.full:
            return
        place, record = self.file.tell(), memoryview(head + block + code)
        try:
            while record:
                record = record[self.file.write(record) or 0 :]
        except OSError:
            self.full = True
            self.file.seek(place)
            self.file.truncate()
        else:
            self._count(images)

    def _count(self, images: Images) -> None:
        self.blocks += 1
        self.images += len(images)

    def _signed(self, header: bytes, head: bytes, block: bytes, images: Images) -> Iterator[bytes]:
        pixels = hashlib.sha256(images.tobytes()).digest()
        yield from (header, struct.pack("<Q", self.blocks), head, block, pixels)


@contextmanager
def unfinished(out: Path) -> Iterator[Unfinished]:
    """The coded blocks of the unfinished file `out`. They stay for the next call if this one is
    interrupted or the disk is full. They are removed when `out` is complete, and after any other
    error.
    """
    path, stays = out.with_name(f".{out.name}.unfinished"), False
    with _locked(path, out) as file:
        found = Unfinished(file)
        kept = "{:,} images are kept, and the same command continues after them"
        try:
            yield found
        except UserError as error:
            stays = found.images > 0 and isinstance(error.__context__, OSError)
            if not stays:
                raise
            raise UserError(f"{error}; {kept.format(found.images)}") from None
        except KeyboardInterrupt:
            if stays := found.images > 0:
                print(f"interrupted: {kept.format(found.images)}", file=sys.stderr)
            raise
        finally:
            if not stays:
                path.unlink(missing_ok=True)


def _locked(path: Path, out: Path) -> FileIO:
    """The file at `path`, open and locked for this process alone. A symbolic link is refused."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    try:
        file = FileIO(os.open(path, flags, 0o600), "a+")
    except OSError as error:
        raise UserError(f"{path}: can not be opened ({error.strerror}); remove it") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise UserError(f"{out}: another process writes this file; wait until it ends") from None
    file.seek(0)
    return file
