"""Plain 8-bit images in blocks, from a split of a data set, a folder of pictures or an npz."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from core import npz
from core.data.datasets import SPLITS, DataConfig, open_source
from core.data.folders import images_in, natural
from core.data.pixels import open_picture, read_file, to_tensor
from core.data.source import eval_sampler
from core.errors import UserError, nearest

Images = NDArray[np.uint8]
Shape = tuple[int, int, int]
NPZ = "save it by numpy.savez(FILE, images=uint8 [n, C, H, W])"
MOST = 2**40  # values of the array in an npz


class Plain(NamedTuple):
    """`total` images that are read in blocks [n, C, H, W]."""

    total: int
    blocks: Iterator[Images]
    kind: str  # png if they were pictures in a folder, else npz


def plain_images(
    where: str, data: DataConfig, seed: int, shape: Shape, block: int, most: int | None = None
) -> Plain:
    """The images that a command line names: a split of `data`, a folder of pictures, or an .npz.

    With `most`, only the first `most` images are read. `UserError` if there are none, or if they do
    not have this shape.
    """
    path = Path(where).expanduser()
    if path.suffix == ".npz":
        images = npz.read(path, NPZ, lambda records: _array(records, path))[:most]
        _require(images.shape[1:], shape, where)
        parts = (images[i : i + block] for i in range(0, len(images), block))
        return Plain(len(images), parts, "npz")
    if path.is_dir():
        files = sorted(images_in(str(path), defaultdict(list)), key=natural)[:most]
        if not files:
            raise UserError(f"{where}: holds no pictures")
        return Plain(len(files), _pictures(files, shape, block), "png")
    if where not in SPLITS:
        raise UserError(
            f"'{where}' is not a folder, an .npz or a split of the checkpoint's data"
            f"{nearest(where, SPLITS)}"
        )
    source = open_source(data, where, seed, augmented=False)
    _require(source.shape, shape, f"data ({where})")
    count = len(source) if most is None else min(most, len(source))
    order = list(eval_sampler(len(source), seed, block))[: -(-count // block)]
    left = count - block * (len(order) - 1)
    order[-1] = (order[-1][0][:left], order[-1][1])
    views = (batch.views[0] for batch in source.batches(order, 1))
    return Plain(count, (_eight_bits(view, where) for view in views), "npz")


def _eight_bits(view: Any, where: str) -> Images:
    """Images as uint8. Rendered images in [0, 1] are rounded to the nearest of 256 levels, like the
    targets of the likelihoods.
    """
    if view.is_floating_point():
        low, high = (edge.item() for edge in view.aminmax())
        if not 0 <= low <= high <= 1:
            raise UserError(
                f"data ({where}): values go from {low:g} to {high:g}, so the images do not have 8"
                " bits; only images of 8 bits can be compressed without loss"
            )
        view = (view * 255).round().to(torch.uint8)
    return view.cpu().numpy()  # type: ignore[no-any-return]


def _array(records: Any, path: Path) -> Images:
    found = npz.array(records, "images", path, NPZ, MOST, 4, "u")
    if found.dtype != np.uint8 or found.ndim != 4 or not len(found):
        raise UserError(f"{path}: images are {found.dtype} {list(found.shape)}; {NPZ}")
    return found


def _pictures(files: list[str], shape: Shape, block: int) -> Iterator[Images]:
    for first in range(0, len(files), block):
        yield np.stack([_picture(file, shape) for file in files[first : first + block]])


def _picture(file: str, shape: Shape) -> Images:
    try:
        pixels = to_tensor(open_picture(read_file(file)), 0, shape[0] == 1)[0].numpy()
    except Exception as error:  # Pillow raises many kinds for damaged files
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{file}: can not be read as a picture ({said})") from None
    _require(pixels.shape, shape, file)
    return pixels  # type: ignore[no-any-return]


def _require(given: Any, shape: Shape, where: str) -> None:
    if tuple(given) != tuple(shape):
        found, asked = ("x".join(map(str, sides)) for sides in (given, shape))
        raise UserError(
            f"{where}: its images are {found} (channels, height, width), but the model reads"
            f" {asked}"
        )
