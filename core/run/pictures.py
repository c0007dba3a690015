"""Images as one PNG: rows of pictures with a thin gap between them."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from core.files import write_atomically

GAP = 2  # pixels, before enlargement


def save_grid(path: Path, rows: list[Tensor], side: int = 64) -> Path:
    """Save rows of images [N, C, H, W], uint8 or in [0, 1], as a PNG in which each is about `side`
    pixels wide.

    Real values beyond [0, 1] are shown on a scale from the least of all rows, black, to the
    greatest.
    """
    height, width = rows[0].shape[2:]
    scale = max(1, side // width)
    if all(row.is_floating_point() for row in rows):
        low, high = (
            min(0.0, *(row.min().item() for row in rows)),
            max(1.0, *(row.max().item() for row in rows)),
        )
        rows = [(row - low) / (high - low) for row in rows]
    canvas = torch.full(
        (3, len(rows) * (height + GAP) + GAP, max(map(len, rows)) * (width + GAP) + GAP),
        255,
        dtype=torch.uint8,
    )
    for r, row in enumerate(rows):
        pixels = row.detach().cpu()
        pixels = (
            (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
            if pixels.is_floating_point()
            else pixels
        )
        for c, image in enumerate(pixels):
            top, left = GAP + r * (height + GAP), GAP + c * (width + GAP)
            canvas[:, top : top + height, left : left + width] = image
    picture = Image.fromarray(canvas.permute(1, 2, 0).numpy())
    picture = picture.resize(
        (picture.width * scale, picture.height * scale), Image.Resampling.NEAREST
    )
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))
    return path
