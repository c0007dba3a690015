"""A stored picture as an 8-bit tensor: transparency, orientation, bit depth, several frames.

What was done to a picture is returned as a number, its *note*. The lower 8 bits are flags. The
higher bits hold the largest value of a 16-bit picture plus one; for other pictures they are 0.
"""

import functools
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.data.skipping import Undecodable
from core.randomness import KeyedRNG

ALPHA, TURNED, FRAMES, COLOUR_16 = 1, 2, 4, 8  # flags of a note
DEPTH = 8  # the bit where the largest value plus one starts
# EXIF orientation -> the operation that shows the picture upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION = 0x0112  # number of the EXIF tag
# Formats that Pillow names but can not decode, and EPS, for which it starts another program.
NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
REDUCED = 2  # a JPEG is decoded at no less than this multiple of `data.size`
# Largest file of a picture. Every 8-bit RGB picture that Pillow decodes is smaller, even
# uncompressed.
MAX_BYTES = 2**29
# If one side is longer than the other by more than this factor, only the middle is resized.
LONGEST = 64


class TooDeep(Exception):
    """A value needs more bits than data.bits, or colour has 16 bits and data.bits is not 16."""


@functools.cache
def formats() -> tuple[str, ...]:
    """The formats that Pillow itself decodes."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - NO_PICTURES))


@functools.cache
def suffixes() -> frozenset[str]:
    """The file name extensions of these formats, in lower case, with the dot."""
    known, read = Image.registered_extensions(), set(formats())
    return frozenset(suffix.lower() for suffix, name in known.items() if name in read)


def read_file(path: str | Path) -> bytes:
    """The bytes of a picture's file; raises `Undecodable` if it is too large for a picture."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise Undecodable(f"its {size / 2**30:.1f} GiB are too large for a picture")
        return file.read()


def open_picture(item: Any) -> Image.Image:
    """A picture from the bytes of a file, from an array of 8-bit values, or unchanged."""
    if isinstance(item, Image.Image):
        return item
    if isinstance(item, bytes):
        return Image.open(io.BytesIO(item), formats=formats())
    return Image.fromarray(np.asarray(item))


def is_grey(picture: Image.Image) -> bool:
    return picture.mode in ("1", "L", "LA", "La", "I") or picture.mode.startswith("I;16")


def to_tensor(picture: Image.Image, size: int, grey: bool, bits: int = 16) -> tuple[Tensor, int]:
    """A picture as uint8 [C, H, W] and its note; C = 1 if `grey`, else 3.

    With `size`, the shorter side is resized to it and the centre is cut out. The picture is turned
    upright (EXIF), transparent parts become white, and only the first of several frames is read.
    16-bit files hold values of `bits` bits; their upper 8 bits are kept. A large JPEG is decoded at
    a reduced size, at least twice `size`. This takes a third to a half of the time and changes a
    pixel by about one level. Raises `Undecodable` for pixels without a known range, and `TooDeep`.
    """
    if size and picture.format == "JPEG":
        picture.draft(None, (REDUCED * size, REDUCED * size))  # type: ignore[arg-type]
    picture, note = upright(picture, bits)
    mode = "L" if grey else "RGB"
    if picture.mode != mode:
        picture = picture.convert(mode)
    if size and picture.size != (size, size):
        picture = resized(picture, size)
    pixels = torch.from_numpy(np.array(picture))
    return (pixels[None] if grey else pixels.permute(2, 0, 1)).contiguous(), note


def upright(picture: Image.Image, bits: int = 16) -> tuple[Image.Image, int]:
    """An upright 8-bit picture without transparency, and its note."""
    note = FRAMES if _has_frames(picture) else 0
    deep_colour = picture.mode.startswith("RGB") and _is_deep(getattr(picture, "tile", ()))
    picture.load()
    turn = TURNS.get(_orientation(picture))
    if turn is not None:
        picture, note = picture.transpose(turn), note | TURNED
    if picture.mode == "I" and picture.format in ("PPM", "PNG") or picture.mode.startswith("I;16"):
        # Pillow has already scaled the values of a PGM to 16 bits
        used = 16 if picture.format == "PPM" else bits
        picture, peak, hidden = _eight_bits(picture, used)
        return picture, note | (peak + 1 << DEPTH) | (ALPHA if hidden else 0)
    if picture.mode in ("I", "F"):
        raise Undecodable(
            f"pixels of Pillow's mode {picture.mode} have no known range: store 8 or 16 bits"
        )
    if deep_colour:
        if bits != 16:
            raise TooDeep("holds 16-bit colour, but Pillow reads only 8 bits: store it with 8 bits")
        peak = max(high for _, high in _ranges(picture.getextrema())[:3])
        note |= COLOUR_16 | (256 * peak + 256 << DEPTH)
    if picture.has_transparency_data:
        picture, seen = _on_white(picture)
        note |= ALPHA if seen else 0
    return picture, note


def resized(picture: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to `size`, and cut out the centre."""
    short, long = sorted(picture.size)
    if long > LONGEST * short:  # a full resize might take gigabytes
        margin = (LONGEST - 1) * short // 2
        width, height = (min(side, short + 2 * margin) for side in picture.size)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        picture = picture.crop((left, top, left + width, top + height))
    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    return picture.resize((width, height), Image.Resampling.BICUBIC).crop(
        (left, top, left + size, top + size)
    )


def _on_white(picture: Image.Image) -> tuple[Image.Image, bool]:
    """A picture on white, and whether any part of it is transparent."""
    if picture.mode in ("La", "RGBa"):  # colours are already multiplied by their opacity
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[picture.mode])
    picture = picture.convert("RGBA")
    lowest, _ = _ranges(picture.getchannel("A").getextrema())[0]
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return white.convert("RGB"), lowest < 255


def _eight_bits(picture: Image.Image, bits: int) -> tuple[Image.Image, int, bool]:
    """The upper 8 bits of grey values with `bits` bits, the largest value, and whether any pixel is
    transparent (such pixels become white). Pillow's own conversion makes all values above 255
    white.
    """
    values = np.asarray(picture)
    peak = int(values.max())
    if peak >= 2**bits:
        raise TooDeep(f"holds the value {peak}, which takes more than {bits} bits")
    hidden = values == picture.info.get("transparency", -1)
    pixels = np.where(hidden, 255, values >> (bits - 8)).astype(np.uint8)
    return Image.fromarray(pixels), peak, bool(hidden.any())


def _ranges(extrema: Any) -> list[tuple[int, int]]:
    """Pillow's extrema as a list with a pair for each channel."""
    return list(extrema) if isinstance(extrema[0], tuple) else [extrema]


def _is_deep(tiles: Iterable[Any]) -> bool:
    """Whether a picture is stored with 16 bits per value, according to its decoder's arguments."""
    return any(";16" in str(tile[3]) for tile in tiles if len(tile) > 3)


def _has_frames(picture: Image.Image) -> bool:
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception:  # the second frame is damaged, but only the first is read
        return False


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ORIENTATION, 1))
    except Exception:  # the EXIF block is damaged, but the picture is not
        return 1


def binarised(images: Tensor, chosen: Tensor, official: str) -> Tensor:
    """Images [n, C, H, W] with values 0 or 255: 255 with probability value / 255, drawn once.

    The draw depends only on an image's place in the official split, so train, val and trainval
    agree. These are not the draws in the file of Larochelle & Murray 2011.
    """
    binary, block = torch.empty_like(images), 4096
    for number in range(int(chosen.max()) // block + 1):
        mine = (chosen // block == number).nonzero()[:, 0]
        rng = KeyedRNG(0, number)
        uniform = rng.uniform(f"binarise {official}", block, *images.shape[1:])
        uniform = uniform[chosen[mine] % block]
        binary[mine] = (uniform * 255 < images[mine]).to(images.dtype) * 255
    return binary
