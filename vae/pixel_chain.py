"""Codecs for all pixels of a batch. There is one for pixels that are independent given z, and one
for pixels that are predicted one after another.

B = images, C H W = image shape, P = parameters of a value, L = latent dimensions.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae.ans import Stack
from vae.codecs import Ints, PixelCodec, to_array
from vae.pixel_cache import row_reader

Codes = NDArray[np.float64]

AT_ONCE = 64  # images of one pass of a PixelCNN; with more, page faults take half of the time
MOST_PARAMETERS = 2**23  # float64 numbers that a decoder of independent pixels makes at a time


class PlainCodec:
    """Pixels that are independent given the code: one call for the whole batch."""

    def __init__(self, model: Any, codec: PixelCodec, rows: int):
        self.model, self.codec, self.rows, self.shape = model, codec, rows, model.shape

    def push(self, stack: Stack, levels: Ints, z: Codes) -> None:
        """Push levels [B, C, H, W] under p(x|z), z [B, L]."""
        self.codec.push(stack, levels.ravel(), self._rounded(z))

    def pop(self, stack: Stack, z: Codes) -> Ints:
        return self.codec.pop(stack, self._rounded(z)).reshape(len(z), *self.shape)

    def _rounded(self, z: Codes) -> Ints:
        """The rounded parameters of all values, in the order of `ravel`."""
        channels, height, width = self.shape
        parts = []
        values = channels * height * width * self.model.pixels.channels
        step = max(1, min(self.rows, MOST_PARAMETERS // values))
        for first in range(0, len(z), step):
            part = self.model.decoder(torch.from_numpy(z[first : first + step]))
            split = part.unflatten(1, (channels, -1)).movedim(2, -1)  # [B, C, H, W, P]
            flat = to_array(split.reshape(-1, split.shape[-1]))
            own = np.arange(channels).repeat(height * width)
            parts.append(self.codec.rounded(flat, np.tile(own, len(part))))
        return np.concatenate(parts)


class ChainCodec:
    """Pixels that a PixelCNN predicts one after another, all images of a batch at a time.

    The encoder knows all pixels, so one pass of the network gives it every conditional. The decoder
    computes them pixel by pixel.
    """

    def __init__(self, model: Any, codec: PixelCodec, rows: int):
        self.model, self.codec, self.rows, self.shape = model, codec, rows, model.shape

    def push(self, stack: Stack, levels: Ints, z: Codes) -> None:
        """Push levels [B, C, H, W], the last pixel first, so that the first pixel pops first."""
        channels, height, width = self.shape
        step, top = min(self.rows, AT_ONCE), float(self.codec.levels - 1)
        parts = []
        for first in range(0, len(z), step):
            x = torch.from_numpy(levels[first : first + step] / top)
            part = self.model.pixelcnn(x, self._condition(z[first : first + step]))
            parts.append(part.unflatten(1, (channels, -1)))  # [B, C, P, H, W]
        parameters = to_array(torch.cat(parts).permute(3, 4, 1, 0, 2).contiguous())
        for i in reversed(range(height)):
            for j in reversed(range(width)):
                for c in reversed(range(channels)):
                    rounded = self.codec.rounded(parameters[i, j, c], c)
                    self.codec.push(stack, levels[:, c, i, j], rounded)

    def pop(self, stack: Stack, z: Codes) -> Ints:
        channels, height, width = self.shape
        places = range(0, len(z), self.rows)
        images = [torch.zeros(len(z[p : p + self.rows]), *self.shape, dtype=torch.float64)
                  for p in places]  # fmt: skip
        conditions = [self._condition(z[p : p + self.rows]) for p in places]
        found = np.zeros((len(z), *self.shape), np.uint8)
        network, top = self.model.pixelcnn, float(self.codec.levels - 1)
        rows = [row_reader(network, *pair) for pair in zip(images, conditions, strict=True)]
        for i in range(height):
            readers = [row(i) for row in rows]
            for j in range(width):
                for c in range(channels):
                    parts = [read(j).unflatten(1, (channels, -1))[:, c] for read in readers]
                    rounded = self.codec.rounded(to_array(torch.cat(parts)), c)
                    found[:, c, i, j] = levels = self.codec.pop(stack, rounded)
                    values = torch.from_numpy(levels.astype(np.float64) / top)
                    for x, own in zip(images, values.split(self.rows), strict=True):
                        x[:, c, i, j] = own
        return found

    def _condition(self, z: Codes) -> Tensor:
        return self.model.pixelcnn.condition(self.model.decoder(torch.from_numpy(z)))  # type: ignore[no-any-return]
