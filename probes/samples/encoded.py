"""Images of pairs, read through the frozen encoder of a checkpoint.

n = pairs, D = feature dimensions.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import UserError
from core.loading import load
from core.method import LatentModel, Method

BLOCK = 256  # images that are encoded at a time


def encoded(x: Any, y: Any, path: Path) -> tuple[Any, Any, str]:
    """x and y with images [n, C, H, W] replaced by features [n, D], and a remark on this.

    I(f(X); Y) <= I(X; Y) for any encoder f. So a lower bound on I(f(X); Y) is also a lower bound on
    I(X; Y), provided that the encoder was not trained on these pairs. Raises `UserError` if no side
    has images, or if the encoder can not read them.
    """
    method = load(path).method
    sides = [np.asarray(side) for side in (x, y)]
    names = [name for name, side in zip("xy", sides, strict=True) if side.ndim in (3, 4)]
    if not names:
        raise UserError(
            f"--critic: checkpoint={path} reads images [n, C, H, W]; x and y are vectors"
        )
    read = [
        _features(method, side[:, None] if side.ndim == 3 else side, name, path)
        if name in names
        else side
        for name, side in zip("xy", sides, strict=True)
    ]
    remark = (
        f"{' and '.join(names)} read through the frozen encoder of {path}: lower bounds hold for"
        " the images, too, if the encoder was not trained on these pairs"
    )
    return read[0], read[1], remark


@torch.no_grad()
def _features(method: Method, images: NDArray[Any], name: str, path: Path) -> NDArray[np.float64]:
    """Features float64 [n, D]."""
    own, shape = method.shape, images.shape[1:]
    fixed = isinstance(method, LatentModel)
    if shape[0] != own[0] or (fixed and shape != tuple(own)):
        given, asked = ("x".join(map(str, sides)) for sides in (shape, own))
        raise UserError(
            f"{name}: its images are {given} (channels, height, width), but {path} reads {asked}"
        )
    if images.dtype != np.uint8:
        if images.dtype.kind != "f" or not (images.min() >= 0 and images.max() <= 1):
            raise UserError(
                f"{name}: holds {images.dtype}, from {images.min():g} to {images.max():g}; an"
                " encoder reads uint8, or numbers from 0 to 1"
            )
        images = images.astype(np.float32)
    elif images.max() <= 1:
        raise UserError(
            f"{name}: its uint8 images hold only 0 and 1, but the encoder reads uint8 up to 255;"
            " multiply them by 255, or give them as floats"
        )
    blocks = torch.from_numpy(images).split(BLOCK)
    return torch.cat([method.embed(block).float() for block in blocks]).double().numpy()
