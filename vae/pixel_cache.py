"""A PixelCNN that is read pixel by pixel: for a new pixel it computes only what has changed.

`PixelCNN.reader` evaluates the network on a crop of the image for each pixel. Here the hidden maps
of earlier pixels are kept, so a pixel of a stack of masked convolutions costs one column of each
layer. B = images, C H W = image shape, K = hidden channels, P = parameters of a value.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vae.masked import MaskedConv2d
from vae.pixelcnn import PixelCNN, Rectangle, Stack

Read = Callable[[int], Tensor]  # j -> the parameters [B, C P] of pixel (i, j)


def row_reader(network: PixelCNN, x: Tensor, condition: Tensor) -> Callable[[int], Read]:
    """A function of the row i, which must be called for rows 0 ... H - 1 in order. It returns a
    function of the column j, which must be called for columns 0 ... W - 1 in order, once for each
    colour. Each call of the second function reads the values that x has at that time.
    """
    if isinstance(network.trunk, Stack):
        return CachedStack(network, x, condition).row
    if isinstance(network.trunk, Rectangle) and network.window.context != "coarse":
        return CachedRectangle(network, x, condition).row
    return lambda i: network.reader(x, condition, i)


class Cached:
    """The parts that both kinds share: the pixel's own earlier colours, and the head."""

    def __init__(self, network: PixelCNN, x: Tensor, condition: Tensor):
        self.network, self.x, self.condition = network, x, condition
        self.colours = network.shape[0]
        self.head = pointwise(network.head)
        self.own = None if network.own is None else pointwise(network.own)

    def seen(self, x: Tensor) -> Tensor:
        """The trunk's input from pixel values [..., C] in [0, 1]."""
        x = 2 * x - 1
        return x.mean(-1, keepdim=True) if self.network.window.context == "grey" else x

    def start(self, i: int, j: int) -> Tensor:
        """The terms [B, K] that do not depend on other pixels."""
        h = self.condition[:, :, i, j]
        return h if self.own is None else h + self.own(2 * self.x[:, :, i, j] - 1)

    def outputs(self, h: Tensor) -> Tensor:
        by_colour = self.head(F.elu(h)).unflatten(1, (-1, self.colours))  # [B, P, C]
        return by_colour.transpose(1, 2).flatten(1, 2)


class CachedStack(Cached):
    """A stack of masked 3x3 convolutions and 1x1 blocks (`vae.pixelcnn.Stack`)."""

    def __init__(self, network: PixelCNN, x: Tensor, condition: Tensor):
        super().__init__(network, x, condition)
        trunk: Any = network.trunk
        self.read = Taps(trunk.read, self.seen(x[:, :, 0, 0]), x.shape[3])
        self.layers: list[Any] = []
        for layer in trunk.layers:
            if layer[0].kernel_size == (3, 3):
                self.layers.append(Taps(layer[0], condition[:, :, 0, 0], x.shape[3]))
            else:
                self.layers.append([pointwise(part) for part in layer])

    def row(self, i: int) -> Read:
        if i:
            self.read.put(self.x.shape[3] - 1, self.seen(self.x[:, :, i - 1, -1]))
        for taps in [self.read, *self.layers]:
            if isinstance(taps, Taps):
                taps.next_row()

        def pixel(j: int) -> Tensor:
            if j:  # the pixel to the left is complete now
                self.read.put(j - 1, self.seen(self.x[:, :, i, j - 1]))
            h = self.read.at(j) + self.start(i, j)
            for layer in self.layers:
                a = F.elu(h)
                if isinstance(layer, Taps):
                    layer.put(j, a)
                    h = h + layer.at(j)
                else:
                    h = h + layer[1](F.elu(layer[0](a)))
            return self.outputs(h)

        return pixel


class Taps:
    """A masked 3x3 convolution at one pixel: the three taps above, the left one and the centre.

    `put` sets the input at a pixel; `at` gives the output there, which depends only on pixels that
    are already put.
    """

    def __init__(self, conv: MaskedConv2d, like: Tensor, width: int):
        weight = weight_of(conv)  # [K, inputs, 3, 3]
        self.above_weight = weight[:, :, 0].flatten(1).T.contiguous()  # [inputs 3, K]
        self.left_weight = weight[:, :, 1, 0].T.contiguous()
        self.centre_weight = weight[:, :, 1, 1].T.contiguous()
        self.bias: Any = conv.bias
        self.inputs = like.new_zeros(width + 2, len(like), weight.shape[1])
        self.above = like.new_zeros(0)

    def next_row(self) -> None:
        """Start a new row: the inputs that were put become the row above."""
        taps = self.inputs.unfold(0, 3, 1).flatten(2)  # [W, B, inputs 3]
        self.above = taps @ self.above_weight + self.bias
        self.inputs = torch.zeros_like(self.inputs)

    def put(self, j: int, x: Tensor) -> None:
        self.inputs[j + 1] = x

    def at(self, j: int) -> Tensor:
        left = torch.addmm(self.above[j], self.inputs[j], self.left_weight)
        return torch.addmm(left, self.inputs[j + 1], self.centre_weight)


class CachedRectangle(Cached):
    """One masked convolution over a rectangle and 1x1 blocks (`vae.pixelcnn.Rectangle`)."""

    def __init__(self, network: PixelCNN, x: Tensor, condition: Tensor):
        super().__init__(network, x, condition)
        trunk: Any = network.trunk
        self.weight, self.bias = weight_of(trunk.read), trunk.read.bias
        self.up, self.left = (side // 2 for side in self.weight.shape[2:])
        self.blocks = [[pointwise(part) for part in layer] for layer in trunk.blocks]

    def row(self, i: int) -> Read:
        up = min(self.up, i)
        weight = self.weight[:, :, self.up - up : self.up + 1]

        def pixel(j: int) -> Tensor:
            first, stop = max(0, j - self.left), min(self.x.shape[3], j + self.left + 1)
            patch = self.x[:, :, i - up : i + 1, first:stop]
            given = self.seen(patch.movedim(1, -1)).movedim(-1, 1)
            own = weight[:, :, :, first - j + self.left : stop - j + self.left]
            h = given.flatten(1) @ own.flatten(1).T + self.bias + self.start(i, j)
            for first_half, second_half in self.blocks:
                h = h + second_half(F.elu(first_half(F.elu(h))))
            return self.outputs(h)

        return pixel


def weight_of(conv: MaskedConv2d) -> Tensor:
    """The weights that a masked convolution applies, [outputs, inputs, k, l]."""
    direction = F.normalize((conv.weight * conv.mask).flatten(1))
    return (direction * conv.gain[:, None]).view_as(conv.weight)


def pointwise(conv: Any) -> Callable[[Tensor], Tensor]:
    """A 1x1 convolution as a map of rows [B, inputs] to [B, outputs]."""
    weight, bias = weight_of(conv).flatten(1).T.contiguous(), conv.bias
    return lambda x: torch.addmm(bias, x, weight)
