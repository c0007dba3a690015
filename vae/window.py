"""Which earlier values an autoregressive image model may read when it predicts one: the definition
that the networks are tested against.

C H W = image shape. Values come in raster order, pixel by pixel, and in a pixel channel by channel
(R, G given R, B given both).
"""

import re
from typing import NamedTuple

import torch
from torch import Tensor

from core.errors import UserError

CONTEXTS = ("pixels", "grey", "coarse")


class Window(NamedTuple):
    """The pixels that pixel (i, j) may read, by how many rows they lie above it and how many
    columns to its right.

    full      every pixel before it N         what N masked 3x3 convolutions reach: k <= N rows
    above, columns -N ... k; in its own row columns -N ... -1. N = 6: 69 pixels AxB       a
    rectangle A wide and B rows tall above it, and ceil((A - 1) / 2) pixels to its left (Chen et al.
    2017: 4x2, 5x3, 7x4)

    Through `context` "pixels" those are read as they are; "grey" gives the mean of their channels;
    "coarse" reads averages over cells of scale x scale pixels, and an AxB window then counts cells:
    B rows of them above the pixel's own cell, A wide.
    """

    kind: str  # full | stack | rectangle
    up: int
    left: int
    right: int
    context: str = "pixels"
    scale: int = 1  # sides of a coarse cell

    @classmethod
    def parse(cls, text: str, context: str = "pixels", scale: int = 1) -> "Window":
        """A window from a config's words; `ValueError("window: …")` where they name none."""
        if context not in CONTEXTS:
            raise ValueError(f"context: '{context}' is none of {', '.join(CONTEXTS)}")
        if (context == "coarse") != (scale > 1):
            raise ValueError(
                f"scale: {scale} does not go with context {context}; coarse takes cells of 2"
                " pixels or more, the others 1"
            )
        match = re.fullmatch(r"(full)|([1-9]\d*)|([1-9]\d*)x([1-9]\d*)", text)
        if not match:
            raise ValueError(
                f"window: '{text}' is none; write full, a number of masked 3x3 convolutions (6)"
                " or WIDTHxROWS (4x2)"
            )
        if match[3]:
            wide, tall = int(match[3]), int(match[4])
            return cls(
                "rectangle", tall, wide // 2, wide - 1 - wide // 2, context, scale
            )  # ceil((A - 1) / 2) = floor(A / 2)
        if context == "coarse":
            raise ValueError(
                f"window: a coarse context takes a rectangle of cells such as 4x2, not '{text}'"
            )
        return (
            cls("stack", int(match[2]), int(match[2]), int(match[2]), context)
            if match[2]
            else cls("full", 0, 0, 0, context)
        )

    def fitted(self, shape: tuple[int, int, int]) -> "Window":
        """The window for images of a shape: full gets its reach. A `UserError` where the image can
        not hold the window.
        """
        channels, height, width = shape
        if self.context == "grey" and channels == 1:
            raise UserError(
                "model.context: grey asks for colour images, these have one channel; take"
                " context=pixels"
            )
        if height % self.scale or width % self.scale:
            raise UserError(
                f"model.scale: cells of {self.scale} pixels do not divide images of"
                f" {height}x{width}"
            )
        if self.kind == "full":
            return self._replace(up=height, left=width, right=width)
        rows, columns = height // self.scale, width // self.scale
        wide = self.left + 1 + (self.right if self.kind == "rectangle" else 0)
        if self.up + 1 > rows or wide > columns:
            unit = "cells" if self.scale > 1 else "pixels"
            raise UserError(
                f"model.window: it spans {wide} columns and, the pixel's own included,"
                f" {self.up + 1} rows; images have {columns} x {rows}"
                f" {unit}: take a smaller window, or full"
            )
        return self

    def reads(self, above: Tensor, right: Tensor) -> Tensor:
        """Whether the pixel (or cell) so many rows `above` and columns to the `right` is read;
        integer tensors that broadcast.
        """
        before = (above > 0) | ((above == 0) & (right < 0))
        if self.kind == "full":
            return before
        reach = above.clamp(min=0) if self.kind == "stack" else torch.full_like(above, self.right)
        seen = before & (above <= self.up) & (right >= -self.left) & (right <= reach)
        return seen & (above > 0) if self.context == "coarse" else seen

    def taps(self) -> Tensor:
        """The window as a mask around the pixel, bool [2 up + 1, 2 left + 1]."""
        up, side = (
            torch.arange(self.up, -self.up - 1, -1)[:, None],
            torch.arange(-self.left, self.left + 1)[None],
        )
        return self.reads(up, side)

    def matrix(self, shape: tuple[int, int, int]) -> Tensor:
        """bool [C, H, W, C, H, W]: whether the prediction of a value (first three) may depend on a
        value (last three).
        """
        channels, height, width = shape
        i, j = torch.arange(height) // self.scale, torch.arange(width) // self.scale
        pixels = self.reads(
            i[:, None, None, None] - i[:, None], j - j[:, None, None]
        )  # [H, W, H, W]
        own = torch.eye(height * width, dtype=torch.bool).view(height, width, height, width)
        earlier = torch.ones(channels, channels, dtype=torch.bool).tril(-1)
        return pixels[None, :, :, None] | (
            earlier[:, None, None, :, None, None] & own[None, :, :, None]
        )

    def crop(self, i: int, j: int, shape: tuple[int, int, int]) -> tuple[slice, slice]:
        """The smallest rectangle of rows and columns that holds all that the prediction of pixel
        (i, j) is computed from.
        """
        s = self.scale
        rows = slice(max(0, i // s - self.up) * s, i + 1 if s == 1 else (i // s + 1) * s)
        return rows, slice(
            max(0, j // s - self.left) * s, min(shape[2], (j // s + self.right + 1) * s)
        )
