"""Write decoded images into a folder: as images.npz, or as numbered PNGs. The folder gets its name
when it is complete.
"""

import os
import secrets
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.lib import format
from PIL import Image

from core.console import progress
from core.errors import UserError
from core.run.folder import make_folder
from vae.bitsback import BitsBack, Images
from vae.container import Reader

MODES = {1: "L", 3: "RGB"}  # channels of a PNG


def refuse_existing(folder: Path) -> None:
    """`UserError` if the folder exists and is not empty, or if a file has this name."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        raise UserError(f"--out: {folder} exists; name a new folder")


def write(folder: Path, reader: Reader, codec: BitsBack, kind: str, only: slice | None) -> int:
    """Decode images into a folder, and return their number. After an error, nothing is left."""
    header = reader.header
    chosen = slice(0, header.total) if only is None else only
    if chosen.stop > header.total:
        raise UserError(
            f"--only: {chosen.start}:{chosen.stop} goes beyond the {header.total:,} images of"
            f" {reader.path}"
        )
    if kind == "png" and header.channels not in MODES:
        raise UserError(f"--as: no PNG has {header.channels} channels; use npz")
    make_folder(folder.parent, "--out", "name another")
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    make_folder(temporary, "--out", "name another")
    count = chosen.stop - chosen.start
    try:
        images = decoded(reader, codec, chosen)
        if kind == "png":
            _pngs(temporary, images, chosen)
        else:
            _npz(temporary / "images.npz", images, (count, *header.shape))
        if folder.is_dir():
            folder.rmdir()  # empty, as `refuse_existing` saw
        os.replace(temporary, folder)
    except OSError as error:
        said = error.strerror or error
        raise UserError(f"{folder}: could not be written ({said}); free some space") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return count


def decoded(reader: Reader, codec: BitsBack, chosen: slice) -> Iterator[Images]:
    """The chosen images, block by block."""
    size = reader.header.block
    first, last = chosen.start // size, (chosen.stop - 1) // size
    total = sum(block.images for block in reader.blocks[first : last + 1])
    with progress(total, "decompress", "images") as done:
        for number in range(first, last + 1):
            images = reader.decode(codec, number, done)
            start = number * size
            yield images[max(0, chosen.start - start) : chosen.stop - start]


def _pngs(folder: Path, blocks: Iterable[Images], chosen: slice) -> None:
    number, digits = chosen.start, len(str(chosen.stop - 1))
    for images in blocks:
        for image in images:
            pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            Image.fromarray(pixels).save(folder / f"{number:0{digits}d}.png", optimize=True)
            number += 1


def _npz(path: Path, blocks: Iterable[Images], shape: tuple[int, ...]) -> None:
    """Write the same file as numpy.savez, but block by block."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file,
        file.open("images.npy", "w", force_zip64=True) as record,
    ):
        about = {"descr": np.dtype(np.uint8).str, "fortran_order": False, "shape": shape}
        format.write_array_header_1_0(record, about)
        for images in blocks:
            record.write(np.ascontiguousarray(images).tobytes())
