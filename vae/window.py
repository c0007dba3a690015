"""Windows: the earlier values that an autoregressive image model may read for a prediction. Tests
compare the networks with this definition.

C H W = image shape. Values are ordered pixel by pixel, row after row, and within a pixel channel by
channel (R; G given R; B given both).
"""

import re
from typing import NamedTuple

import torch
from torch import Tensor

from core.errors import UserError

CONTEXTS = ("pixels", "grey", "coarse")


class Window(NamedTuple):
    """The pixels that pixel (i, j) may read, by their distance in rows above and columns to the
    right.

        full   every earlier pixel
        N      what N masked 3x3 convolutions reach: up to N rows above, columns -N ... k in the
               k-th row above, and columns -N ... -1 in its own row; N = 6 gives 69 pixels
        AxB    A columns of each of the B rows above, and ceil((A - 1) / 2) pixels to its left
               (Chen et al. 2017: 4x2, 5x3, 7x4)

    `context` says how these pixels are read: "pixels" as they are, "grey" as the mean of their
    channels, "coarse" as averages over cells of scale x scale pixels. With "coarse", AxB counts
    cells: A cells of each of the B rows of cells above the pixel's own cell.
    """

    kind: str  # full | stack | rectangle
    up: int
    left: int
    right: int
    context: str = "pixels"
    scale: int = 1  # side of a coarse cell

    @classmethod
    def parse(cls, text: str, context: str = "pixels", scale: int = 1) -> "Window":
        """A window from the texts of a config; `ValueError("window: …")` if they are invalid."""
        if context not in CONTEXTS:
            raise ValueError(f"context: '{context}' is not one of {', '.join(CONTEXTS)}")
        if (context == "coarse") != (scale > 1):
            raise ValueError(
                f"scale: {scale} does not fit context {context}; coarse needs a scale of 2 or"
                " more, the other contexts need 1"
            )
        match = re.fullmatch(r"(full)|([1-9]\d*)|([1-9]\d*)x([1-9]\d*)", text)
        if not match:
            raise ValueError(
                f"window: '{text}' is invalid; write full, a number of masked 3x3 convolutions (6)"
                " or WIDTHxROWS (4x2)"
            )
        if match[3]:
            wide, tall = int(match[3]), int(match[4])
            left = wide // 2  # = ceil((A - 1) / 2)
            return cls("rectangle", tall, left, wide - 1 - left, context, scale)
        if context == "coarse":
            raise ValueError(f"window: a coarse context needs AxB cells, such as 4x2, not '{text}'")
        if match[2]:
            return cls("stack", int(match[2]), int(match[2]), int(match[2]), context)
        return cls("full", 0, 0, 0, context)

    def fitted(self, shape: tuple[int, int, int]) -> "Window":
        """The window for images of a shape; `UserError` if it does not fit."""
        channels, height, width = shape
        if self.context == "grey" and channels == 1:
            raise UserError("model.context: grey needs colour images; set model.context=pixels")
        if height % self.scale or width % self.scale:
            sides = f"images of {height}x{width}"
            raise UserError(f"model.scale: cells of {self.scale} pixels do not divide {sides}")
        if self.kind == "full":
            return self._replace(up=height, left=width, right=width)
        rows, columns = height // self.scale, width // self.scale
        wide = self.left + 1 + (self.right if self.kind == "rectangle" else 0)
        if self.up + 1 > rows or wide > columns:
            unit = "cells" if self.scale > 1 else "pixels"
            raise UserError(
                f"model.window: with the pixel's own row and column, the window needs at least"
                f" {wide} columns and {self.up + 1} rows, but images have {columns} x {rows}"
                f" {unit}; use a smaller window, or full"
            )
        return self

    def reads(self, above: Tensor, right: Tensor) -> Tensor:
        """Whether the pixel (or cell) `above` rows higher and `right` columns to the right is read.
        Both are integers that broadcast.
        """
        before = (above > 0) | ((above == 0) & (right < 0))
        if self.kind == "full":
            return before
        reach = above.clamp(min=0) if self.kind == "stack" else torch.full_like(above, self.right)
        seen = before & (above <= self.up) & (right >= -self.left) & (right <= reach)
        return seen & (above > 0) if self.context == "coarse" else seen

    def taps(self) -> Tensor:
        """The window as a mask around the pixel, bool [2 up + 1, 2 left + 1]."""
        up = torch.arange(self.up, -self.up - 1, -1)[:, None]
        return self.reads(up, torch.arange(-self.left, self.left + 1)[None])

    def matrix(self, shape: tuple[int, int, int]) -> Tensor:
        """Whether the prediction of a value may read another, bool [C, H, W, C, H, W]."""
        channels, height, width = shape
        i, j = torch.arange(height) // self.scale, torch.arange(width) // self.scale
        rows, columns = i[:, None, None, None] - i[:, None], j - j[:, None, None]
        pixels = self.reads(rows, columns)  # [H, W, H, W]
        own = torch.eye(height * width, dtype=torch.bool).view(height, width, height, width)
        earlier = torch.ones(channels, channels, dtype=torch.bool).tril(-1)
        own_earlier = earlier[:, None, None, :, None, None] & own[None, :, :, None]
        return pixels[None, :, :, None] | own_earlier

    def crop(self, i: int, j: int, shape: tuple[int, int, int]) -> tuple[slice, slice]:
        """The rows and columns that the prediction of pixel (i, j) is computed from."""
        s = self.scale
        rows = slice(max(0, i // s - self.up) * s, i + 1 if s == 1 else (i // s + 1) * s)
        right = min(shape[2], (j // s + self.right + 1) * s)
        return rows, slice(max(0, j // s - self.left) * s, right)
