"""Rows of images as one picture, with names for rows and columns, and a caption for each image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from core.errors import legible
from core.files import write_atomically

GAP = 2  # pixels, before enlargement
DPI = 110
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
        write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))
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
        if pixels.is_floating_point():
            pixels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
        for c, image in enumerate(pixels):
            top, left = GAP + r * tall, GAP + c * wide
            canvas[:, top : top + height, left : left + width] = image
    made: NDArray[np.uint8] = canvas.permute(1, 2, 0).numpy()
    return made


def _draw(path: Path, grid: Grid, picture: Image.Image, scale: int, below: int) -> None:
    """The picture with the names of a grid, by matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, because both
    from matplotlib.figure import Figure  # take a part of a second

    height, width = grid[0].shape[2:]
    size = (picture.width / DPI + 1.6, picture.height / DPI + 0.9)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.asarray(picture), interpolation="nearest")
    tall, wide = (height + GAP + below) * scale, (width + GAP) * scale
    middles = [GAP * scale + r * tall + height * scale / 2 for r in range(len(grid))]
    centres = [
        GAP * scale + c * wide + width * scale / 2 for c in range(max(len(row) for row in grid))
    ]
    names, columns = ([_drawable(name) for name in part] for part in (grid.names, grid.columns))
    axes.set_yticks(middles[: len(names)], names, fontsize=9)
    axes.set_xticks(centres[: len(columns)], columns, fontsize=8)
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for r, captions in enumerate(grid.captions):
        for c, text in enumerate(captions):
            place = (centres[c], middles[r] + height * scale / 2 + 1)
            axes.text(*place, _drawable(text), ha="center", va="top", fontsize=6.5)
    if grid.title:
        axes.set_title(_drawable(grid.title, 90), fontsize=10, loc="left", weight="bold")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # `savefig` draws twice
    Image.fromarray(np.asarray(canvas.buffer_rgba())).save(path, format="PNG", dpi=(DPI, DPI))


def _drawable(text: str, most: int = LONGEST) -> str:
    """A text without matplotlib's formulas, cut to `most` characters."""
    return legible(text, most).replace("$", r"\$")
