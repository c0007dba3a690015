"""Messages about a split, each printed once, on standard error, by the first process."""

import functools
import os
import sys
from collections.abc import Iterable

from core.data.pixels import ALPHA, COLOUR_16, DEPTH, FRAMES, TURNED
from core.distributed import rank

ENOUGH = 256  # `Notes` judges the range of 16-bit values after so many pictures
SENTENCES = {
    ALPHA: "some images are transparent in places; they are drawn on a white background",
    TURNED: "some images are stored rotated or mirrored (EXIF); they are turned upright",
    FRAMES: "some files hold several frames or pages; the first of each is read",
}


@functools.cache
def say_once(line: str) -> None:
    """Print a line, unless it was printed before or this is not the first process."""
    first = rank() == 0 and all(
        os.environ.get(key, "0") == "0" for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    )
    if first:
        print(line, file=sys.stderr, flush=True)


def printable(text: object, most: int = 200) -> str:
    """A name from a disk, with special characters escaped, cut to `most` characters."""
    plain = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in str(text)
    )
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."


class Notes:
    """Collects the notes of a split's pictures (`core.data.pixels`) and reports them."""

    def __init__(self, where: str, bits: int = 16):
        self.where, self.bits = where, bits
        self.flags, self.deep, self.peak, self.judged = 0, 0, -1, False

    def add(self, notes: Iterable[int]) -> None:
        for note in notes:
            flags, depth = note & (1 << DEPTH) - 1, note >> DEPTH
            for flag, sentence in SENTENCES.items():
                if flag & flags & ~self.flags:
                    say_once(f"data.root: {self.where}: {sentence}")
            self.flags |= flags
            if depth:
                self.deep, self.peak = self.deep + 1, max(self.peak, depth - 1)
        if self.deep >= ENOUGH:
            self.judge()

    def judge(self) -> None:
        """Warn if 16-bit values fill less than 1/16 of their range, so that images look black. The
        values are not scaled, because another split may have another maximum.
        """
        if self.judged or not self.deep:
            return
        self.judged = True
        if self.peak >= 2**self.bits // 16:
            return
        remedy = f"set data.bits={max(8, self.peak.bit_length())}, the number of bits that they use"
        if self.flags & COLOUR_16:
            remedy = "store them with 8 bits that fill the range"
        say_once(
            f"data.bits: {self.where}: the largest value of {self.deep} images of 16 bits is"
            f" {self.peak} of {2**self.bits - 1}, so they are nearly black; {remedy}"
        )
