"""PixelCNN: the parameters of p(x_i | earlier values in a window, u) for all values i of an image,
in one pass of masked convolutions.

Van den Oord et al. 2016a, 2016b; Salimans et al. 2017; restricted windows: Chen et al., Variational
Lossy Autoencoder, 2017. B = images, C H W = image shape, K = hidden channels, U = conditioning
feature maps, P = parameters per value.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError
from vae.masked import MaskedConv2d, pointwise
from vae.window import Window

EVERYWHERE = torch.ones(3, 3, dtype=torch.bool)
# These taps include the middle row. Its features depend only on pixels in higher rows, because the
# first layer (`read_above`) does not read its own row.
ABOVE = torch.tensor([[1, 1, 1], [1, 1, 1], [0, 0, 0]], dtype=torch.bool)
LEFT = torch.tensor([[1, 0, 0]], dtype=torch.bool)
BEFORE = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)


class PixelCNN(nn.Module):
    """Maps images [B, C, H, W] in [0, 1] and a condition to parameters [B, C P, H, W], where the P
    parameters of a channel are adjacent. The parameters of a value depend only on the values in its
    window (`window.matrix(shape)`) and on the condition.

    Hidden channel k has colour k mod C. Conditioning features are not masked.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        window: Window,
        parameters: int,
        width: int,
        blocks: int,
        features: int = 0,
    ):
        super().__init__()
        colours = shape[0]
        if width % colours:
            raise UserError(
                f"model.pixel_width: must be a multiple of the {colours} channels, got {width}"
            )
        self.shape, self.window = shape, window.fitted(shape)
        trunk: Any = {"full": TwoStacks, "stack": Stack, "rectangle": Rectangle}[window.kind]
        self.trunk = trunk(self.window, shape, width, blocks)
        self.own = pointwise(colours, width, "before", colours) if colours > 1 else None
        self.features = MaskedConv2d(features, width, EVERYWHERE, "all") if features else None
        self.head = pointwise(width, colours * parameters, "upto", colours)

    def condition(self, features: Tensor) -> Tensor:
        """Feature maps [B, U, H, W] to the term [B, K, H, W] that the first layer adds."""
        assert self.features is not None
        return self.features(features)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        seen, start = self._inputs(x, condition)
        return self._outputs(self.trunk(seen, start))

    def reader(self, x: Tensor, condition: Tensor | None, i: int) -> Callable[[int], Tensor]:
        """A function of j that computes the parameters [B, C P] of pixel (i, j) from the values
        that x has at the time of the call. The rows above row i must be complete.

        With full context, the rows above are read once for the whole row. With a window, only the
        smallest sufficient crop of the image is read.
        """
        if isinstance(self.trunk, TwoStacks):
            seen, _ = self._inputs(x[:, :, : i + 1], None)
            above = [term[:, :, i:] for term in self.trunk.above(seen)]
            row = slice(i, i + 1)

            def whole_row(j: int) -> Tensor:
                given = None if condition is None else condition[:, :, row]
                seen, start = self._inputs(x[:, :, row], given)
                return self._outputs(self.trunk.along(seen, start, above))[:, :, 0, j]

            return whole_row

        def crop(j: int) -> Tensor:
            rows, columns = self.window.crop(i, j, self.shape)
            given = None if condition is None else condition[:, :, rows, columns]
            # not self(): a compiled network would be compiled for every shape of a crop
            part = self.forward(x[:, :, rows, columns], given)
            return part[:, :, i - rows.start, j - columns.start]

        return crop

    def _inputs(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor | float]:
        """The trunk's input, and its start: the condition plus the pixel's own earlier channels."""
        x = 2 * x - 1
        own = None if self.own is None else self.own(x)
        start = [term for term in (condition, own) if term is not None]
        seen = x
        if self.window.context == "grey":
            seen = x.mean(1, keepdim=True)
        elif self.window.context == "coarse":
            seen = F.avg_pool2d(x, self.window.scale)
        return seen, sum(start) if start else 0.0

    def _outputs(self, hidden: Tensor) -> Tensor:
        by_colour = self.head(F.elu(hidden)).unflatten(1, (-1, self.shape[0]))  # [B, P, C, H, W]
        return by_colour.transpose(1, 2).flatten(1, 2)


class Stack(nn.Module):
    """N masked 3x3 convolutions with residual 1x1 blocks between them. All of these convolutions
    except the first are residual, too.
    """

    def __init__(self, window: Window, shape: tuple[int, int, int], width: int, blocks: int):
        super().__init__()
        self.read = MaskedConv2d(seen_channels(window, shape), width, BEFORE)
        layers: list[nn.Module] = []
        for number in range(max(window.up, blocks + 1)):
            if 0 < number < window.up:
                layers.append(Residual(MaskedConv2d(width, width, BEFORE, "upto", shape[0])))
            if number < blocks:
                layers.append(block(width, shape[0]))
        self.layers = nn.Sequential(*layers)

    def forward(self, seen: Tensor, start: Tensor | float) -> Tensor:
        return self.layers(interleaved(self.read(seen) + start))


class Rectangle(nn.Module):
    """One masked convolution that reads the window, then residual 1x1 blocks."""

    def __init__(self, window: Window, shape: tuple[int, int, int], width: int, blocks: int):
        super().__init__()
        self.scale = window.scale
        self.read = MaskedConv2d(seen_channels(window, shape), width, window.taps())
        self.blocks = nn.Sequential(*(block(width, shape[0]) for _ in range(blocks)))

    def forward(self, seen: Tensor, start: Tensor | float) -> Tensor:
        h = self.read(seen)
        h = F.interpolate(h, scale_factor=self.scale) if self.scale > 1 else h
        return self.blocks(interleaved(h + start))


class TwoStacks(nn.Module):
    """All earlier pixels, without a blind spot: one stack of gated layers for the rows above, and
    one for the row itself, with dilations 1, 2, 4, …
    """

    def __init__(self, window: Window, shape: tuple[int, int, int], width: int, blocks: int):
        super().__init__()
        channels = seen_channels(window, shape)
        above = torch.tensor([[1, 1, 1], [0, 0, 0], [0, 0, 0]], dtype=torch.bool)
        self.read_above = MaskedConv2d(channels, width, above)
        self.read_left = MaskedConv2d(channels, width, LEFT)
        self.join = pointwise(width, width, "all")
        dilations = [1]
        # the first layer reaches 1 pixel; all layers together must reach the far corner
        while sum(dilations) < max(shape[1:]) - 2:
            dilations.append(2 * dilations[-1])
        self.layers = nn.ModuleList(Gated(width, shape[0], dilation) for dilation in dilations)
        self.blocks = nn.Sequential(*(block(width, shape[0]) for _ in range(blocks)))

    def forward(self, seen: Tensor, start: Tensor | float) -> Tensor:
        return self.along(seen, start, self.above(seen))

    def above(self, seen: Tensor) -> list[Tensor]:
        """The terms that the rows above add to each layer of the row."""
        above = interleaved(self.read_above(seen))
        terms = [self.join(above)]
        for layer in self.layers:
            above, term = layer.rise(above)  # type: ignore[operator]
            terms.append(term)
        return terms

    def along(self, seen: Tensor, start: Tensor | float, above: list[Tensor]) -> Tensor:
        """The hidden channels of rows, given the terms of the rows above."""
        row = interleaved(self.read_left(seen) + above[0] + start)
        for layer, term in zip(self.layers, above[1:], strict=True):
            row = layer(row, term)
        return self.blocks(row)


class Gated(nn.Module):
    """A gated residual layer of both stacks, with gates a * sigmoid(b) (Salimans et al. 2017)."""

    def __init__(self, width: int, colours: int, dilation: int):
        super().__init__()
        self.higher = MaskedConv2d(width, 2 * width, ABOVE, "all", dilation=dilation)
        self.row = MaskedConv2d(width, 2 * width, LEFT, "upto", colours, dilation)
        self.down = pointwise(width, 2 * width, "all")
        self.out = pointwise(width, width, "upto", colours)

    def rise(self, above: Tensor) -> tuple[Tensor, Tensor]:
        """The next layer of the stack for the rows above, and the term that it adds to the row."""
        above = above + gate(self.higher(above))
        return above, self.down(above)

    def forward(self, row: Tensor, above: Tensor) -> Tensor:
        return row + self.out(gate(self.row(row) + above))


class Residual(nn.Sequential):
    """h + f(h), where f applies an ELU before each of its layers."""

    def forward(self, h: Tensor) -> Tensor:
        change = h
        for layer in self:
            change = layer(F.elu(change))
        return h + change


def block(width: int, colours: int) -> Residual:
    """A residual block of two 1x1 layers."""
    return Residual(*(pointwise(width, width, "upto", colours) for _ in range(2)))


def gate(h: Tensor) -> Tensor:
    """a * sigmoid(b) for h = (a, b), [B, 2 K, H, W] to [B, K, H, W]. (The gradient of torch's `glu`
    loses the memory format of `interleaved`.)
    """
    a, b = h.chunk(2, 1)
    return a * torch.sigmoid(b)


def interleaved(h: Tensor) -> Tensor:
    """The same maps, with the channels of a pixel adjacent in memory. On a CPU, convolutions are
    then 2 to 5 times as fast.
    """
    return h.contiguous(memory_format=torch.channels_last)


def seen_channels(window: Window, shape: tuple[int, int, int]) -> int:
    return 1 if window.context == "grey" else shape[0]
