"""Rows of images as one picture, with names for rows and columns, and a caption for each image."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from core.errors import legible
from core.files import write_atomically

GAP = 2  # pixels, before enlargement
DPI = 110
EDGE = 8  # pixels around a picture with names
# of zlib; it takes a quarter of the time of Pillow's default, and noisy images become no larger
LEVEL = 1
SIZES = SMALL, MEDIUM, LARGE, TITLE = 10, 12, 14, 15  # pixels: captions, columns, rows, title
CAPTION = 14  # pixels of a line below an image
LONGEST = 24  # characters of a name


class Grid(list[Tensor]):
    """Rows of images [N, C, H, W], uint8 or in [0, 1], with what they show.

    `names`: a name for each row. `columns`: a name for each column. `captions`: for each row, a
    text below each image.
    """

    def __init__(
        self,
        rows: Sequence[Tensor],
        names: Sequence[str] = (),
        columns: Sequence[str] = (),
        captions: Sequence[Sequence[str]] = (),
        title: str = "",
    ):
        super().__init__(rows)
        self.names, self.columns, self.captions = names, columns, captions
        self.title = title


def save_grid(path: Path, rows: list[Tensor], side: int = 64) -> Path:
    """Save rows of images as a PNG; images are about `side` pixels wide. If real values lie
    outside of [0, 1], black is their minimum and white their maximum. A `Grid` gets its names and
    captions.
    """
    scale = max(1, side // rows[0].shape[3])
    captioned = isinstance(rows, Grid) and bool(rows.captions)
    below = -(-CAPTION // scale) if captioned else 0
    canvas = _canvas(rows, below)
    picture = Image.fromarray(canvas)
    enlarged = (picture.width * scale, picture.height * scale)
    picture = picture.resize(enlarged, Image.Resampling.NEAREST)
    if isinstance(rows, Grid):
        write_atomically(path, lambda temporary: _draw(temporary, rows, picture, scale, below))
    else:
        write_atomically(
            path, lambda temporary: picture.save(temporary, format="PNG", compress_level=LEVEL)
        )
    return path


def _canvas(rows: list[Tensor], below: int) -> NDArray[np.uint8]:
    """All images on white, [height, width, 3], with `below` pixels of space under each row."""
    height, width = rows[0].shape[2:]
    if all(row.is_floating_point() for row in rows):
        low = min(0.0, *(row.min().item() for row in rows))
        high = max(1.0, *(row.max().item() for row in rows))
        rows = [(row - low) / (high - low) for row in rows]
    tall, wide = height + GAP + below, width + GAP
    size = (3, len(rows) * tall + GAP, max(map(len, rows)) * wide + GAP)
    canvas = torch.full(size, 255, dtype=torch.uint8)
    for r, row in enumerate(rows):
        pixels = row.detach().cpu()
        if pixels.shape[1] not in (1, 3):  # no colours: the mean of all channels, in grey
            pixels = pixels.float().mean(1, keepdim=True)
            pixels = pixels if row.is_floating_point() else pixels / 255
        if pixels.is_floating_point():
            pixels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
        for c, image in enumerate(pixels):
            top, left = GAP + r * tall, GAP + c * wide
            canvas[:, top : top + height, left : left + width] = image
    made: NDArray[np.uint8] = canvas.permute(1, 2, 0).numpy()
    return made


def _draw(path: Path, grid: Grid, picture: Image.Image, scale: int, below: int) -> None:
    """The picture with the names of a grid around it. Pillow takes a tenth of the time that
    matplotlib takes to arrange and draw a figure.
    """
    height, width = grid[0].shape[2:]
    tall, wide = (height + GAP + below) * scale, (width + GAP) * scale
    middles = [GAP * scale + r * tall + height * scale / 2 for r in range(len(grid))]
    centres = [GAP * scale + c * wide + width * scale / 2 for c in range(max(map(len, grid)))]
    small, medium, large, bold = (_font(size, size == TITLE) for size in SIZES)
    names = [_drawable(name) for name in grid.names]
    columns = list(zip(centres, [_drawable(name) for name in grid.columns], strict=False))
    title = _drawable(grid.title, 90)
    beyond = [medium.getlength(name) / 2 - centre for centre, name in columns]
    left = EDGE + max([large.getlength(name) + EDGE for name in names] + beyond + [0])
    top = EDGE + (2 * TITLE if title else 0) + (2 * MEDIUM if columns else 0)
    beyond = [centre + medium.getlength(name) / 2 for centre, name in columns]
    right = max(left + max([picture.width, *beyond]), EDGE + bold.getlength(title))
    sheet = Image.new("RGB", (int(right) + EDGE, top + picture.height + EDGE), "white")
    sheet.paste(picture, (int(left), top))
    left = int(left)
    draw = ImageDraw.Draw(sheet)
    draw.text((EDGE, EDGE), title, "black", bold, "la")
    for centre, name in columns:
        draw.text((left + centre, top - 2), name, "black", medium, "mb")
    for middle, name in zip(middles, names, strict=False):
        draw.text((left - EDGE, top + middle), name, "black", large, "rm")
    for middle, captions in zip(middles, grid.captions, strict=False):
        for centre, text in zip(centres, captions, strict=False):
            place = (left + centre, top + middle + height * scale / 2 + 1)
            draw.text(place, _drawable(text), "black", small, "ma")
    sheet.save(path, format="PNG", compress_level=LEVEL, dpi=(DPI, DPI))


@functools.cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """The font of the other pictures, which has the letters of many alphabets."""
    import matplotlib  # imported here, because it takes a part of a second

    name = f"DejaVuSans{'-Bold' if bold else ''}.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf" / name, size)


def _drawable(text: str, most: int = LONGEST) -> str:
    """A text in one line, cut to `most` characters."""
    return legible(text.replace("\n", " "), most)
