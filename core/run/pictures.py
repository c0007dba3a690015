"""Save rows of images as one PNG."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from core.files import write_atomically

GAP = 2  # pixels, before enlargement


def save_grid(path: Path, rows: list[Tensor], side: int = 64) -> Path:
    """Save rows of images [N, C, H, W], uint8 or in [0, 1], as a PNG; images are about `side`
    pixels wide. If real values leave [0, 1], black is their minimum and white their maximum.
    """
    height, width = rows[0].shape[2:]
    scale = max(1, side // width)
    if all(row.is_floating_point() for row in rows):
        low = min(0.0, *(row.min().item() for row in rows))
        high = max(1.0, *(row.max().item() for row in rows))
        rows = [(row - low) / (high - low) for row in rows]
    tall, wide = height + GAP, width + GAP
    size = (3, len(rows) * tall + GAP, max(map(len, rows)) * wide + GAP)
    canvas = torch.full(size, 255, dtype=torch.uint8)
    for r, row in enumerate(rows):
        pixels = row.detach().cpu()
        if pixels.is_floating_point():
            pixels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
        for c, image in enumerate(pixels):
            top, left = GAP + r * tall, GAP + c * wide
            canvas[:, top : top + height, left : left + width] = image
    picture = Image.fromarray(canvas.permute(1, 2, 0).numpy())
    enlarged = (picture.width * scale, picture.height * scale)
    picture = picture.resize(enlarged, Image.Resampling.NEAREST)
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))
    return path
