"""A masked convolution with weight normalisation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CENTRES = ("none", "before", "upto", "all")


class MaskedConv2d(nn.Conv2d):
    """A convolution whose filters are zero outside of `taps` and have the norms `gain` (weight
    norm: w = g v / |v|, Salimans & Kingma 2016).

    `taps` is bool [k, l] with odd sides. Channel c has colour c mod `colours`. `centre` replaces
    the middle value of `taps`. It says which inputs an output reads there: "none"; "before", the
    colours before its own (van den Oord's mask A); "upto", the colours up to its own (mask B); or
    "all". The mask is applied to the weights, before the norm, and never to the image.
    """

    mask: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        taps: Tensor,
        centre: str = "none",
        colours: int = 1,
        dilation: int = 1,
    ):
        sides = (taps.shape[0], taps.shape[1])
        padding = (sides[0] // 2 * dilation, sides[1] // 2 * dilation)
        super().__init__(inputs, outputs, sides, padding=padding, dilation=dilation)
        mask = taps.expand(outputs, inputs, *sides).clone()
        mine, given = torch.arange(outputs)[:, None] % colours, torch.arange(inputs)[None] % colours
        middle = {
            "none": given < 0,
            "before": given < mine,
            "upto": given <= mine,
            "all": given >= 0,
        }[centre]
        mask[:, :, sides[0] // 2, sides[1] // 2] = middle
        self.register_buffer("mask", mask, persistent=False)
        self.gain = nn.Parameter((self.weight * mask).detach().flatten(1).norm(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        direction = F.normalize((self.weight * self.mask).flatten(1))  # zero if all is masked
        weight = (direction * self.gain[:, None]).view_as(self.weight)
        return self._conv_forward(x, weight, self.bias)


def pointwise(inputs: int, outputs: int, centre: str = "upto", colours: int = 1) -> MaskedConv2d:
    """A 1x1 convolution that respects the order of the colours."""
    return MaskedConv2d(inputs, outputs, torch.ones(1, 1, dtype=torch.bool), centre, colours)
