"""Sizes of images in common formats, for comparison with the compressed file of a model.

n = images, C H W = image shape.
"""

import bz2
import contextlib
import importlib
import io
import lzma
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

Images = NDArray[np.uint8]
Coder = Callable[[Images], int]  # the size in bytes of an image [C, H, W]

LONGEST = 16_000  # pixels of a side of a mosaic; WebP allows 16,383


def baselines(images: Images) -> list[dict[str, Any]]:
    """{"name", "each", "mosaic"} of each format, in bytes: all images [n, C, H, W] one by one, and
    as one mosaic, which has a single header. Images of only 0 and 255 are stored with one bit a
    pixel if the format allows it (PNG). General compressors get one bit or one byte a pixel,
    whichever gives the smaller file.
    """
    binary = images.shape[1] == 1 and not ((images != 0) & (images != 255)).any()
    whole = mosaic(images)
    coders: dict[str, Coder] = {}
    if images.shape[1] in (1, 3):
        coders["PNG"] = lambda x: saved(x, binary, "PNG", optimize=True)
        if features.check("webp"):
            coders["WebP"] = lambda x: saved(x, False, "WEBP", lossless=True, quality=100, method=6)
        if xl := jpeg_xl():
            coders["JPEG XL"] = xl
    coders["zlib"] = lambda x: packed(x, binary, lambda data: zlib.compress(data, 9))
    coders["xz"] = lambda x: packed(x, binary, xz)
    coders["bz2"] = lambda x: packed(x, binary, bz2.compress)
    return [
        {"name": name, "each": sum(map(coder, images)), "mosaic": coder(whole)}
        for name, coder in coders.items()
    ]


def mosaic(images: Images) -> Images:
    """All images in one picture [C, rows H, columns W], nearly square; empty places are 0."""
    n, channels, height, width = images.shape
    columns = min(math.ceil(math.sqrt(n * height / width)), LONGEST // width)
    rows = -(-n // columns)
    filled = np.zeros((rows * columns, channels, height, width), np.uint8)
    filled[:n] = images
    grid = filled.reshape(rows, columns, channels, height, width)
    return grid.transpose(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)


def saved(image: Images, binary: bool, form: str, **options: Any) -> int:
    """The bytes of an image in a format of Pillow."""
    picture, file = Image.fromarray(pixels_of(image)), io.BytesIO()
    (picture.convert("1", dither=Image.Dither.NONE) if binary else picture).save(
        file, form, **options
    )
    return len(file.getvalue())


def jpeg_xl() -> Coder | None:
    """Lossless JPEG XL, by whichever of two optional packages is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_jxl")  # this registers the format with Pillow
        return lambda x: saved(x, False, "JXL", lossless=True, effort=9)
    with contextlib.suppress(ImportError):
        encode = importlib.import_module("imagecodecs").jpegxl_encode
        return lambda x: len(encode(pixels_of(x), lossless=True, effort=9))
    return None


def pixels_of(image: Images) -> Images:
    """[H, W] of a grey image, [H, W, 3] of a colour image."""
    return np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def packed(image: Images, binary: bool, compress: Callable[[bytes], bytes]) -> int:
    """The bytes of a general compressor: of the values or, if it is smaller, of the packed bits."""
    size = len(compress(image.tobytes()))
    return min(size, len(compress(np.packbits(image > 0).tobytes()))) if binary else size


def xz(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME)
