"""Encoders of images: timm's models by name, and two small convolutional networks for CPUs.

B = images, C H W = image shape, D = feature dimensions (`Backbone.dim`).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.batch import as_float
from core.errors import UserError, nearest

STEMS = ("cifar", "imagenet")
OWN = ("small", "what_where")  # names of networks that are not timm's


class Backbone(nn.Module):
    """Raw images [B, C, H, W] to features [B, D].

    `name` is one of `OWN` or a timm model without pretrained weights. `stem="cifar"` changes a
    ResNet for 32x32 images: the first convolution is 3x3 with stride 1, and there is no max-pooling
    (SimCLR, Chen et al. 2020, appendix B.9). `more`: arguments for timm, such as `patch_size`.
    """

    def __init__(self, name: str, shape: tuple[int, int, int], stem: str = "cifar", **more: Any):
        super().__init__()
        if name in OWN:
            own: Any = SmallNet if name == "small" else WhatWhereNet
            self.net: nn.Module = own(shape)
            self.dim: int = self.net.DIM  # type: ignore[assignment]
            return
        import timm  # takes seconds

        if name not in timm.list_models():
            near = nearest(name, [*OWN, *timm.list_models()])
            raise UserError(f"model.backbone: timm has no '{name}'{near}"[:300])
        sized = name.startswith(("vit", "deit", "swin"))
        size: dict[str, Any] = ({"img_size": shape[1:]} if sized else {}) | more
        try:
            self.net = timm.create_model(
                name, pretrained=False, num_classes=0, in_chans=shape[0], **size
            )
        except TypeError as error:  # an argument that this network does not have
            raise UserError(f"model.backbone: {name}: {error}") from None
        # some heads have a hidden layer before the removed classifier
        self.dim = int(getattr(self.net, "head_hidden_size", None) or self.net.num_features)  # type: ignore[arg-type]
        first = getattr(self.net, "conv1", None)
        if stem == "cifar" and isinstance(first, nn.Conv2d) and hasattr(self.net, "maxpool"):
            self.net.conv1 = nn.Conv2d(shape[0], first.out_channels, 3, 1, 1, bias=False)
            self.net.maxpool = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(as_float(x) * 2 - 1)


class SmallNet(nn.Sequential):
    """Four strided convolutions and a linear layer: thousands of 32x32 images per second on 2
    cores.

    The last map is flattened and not averaged, so that features keep positions.
    """

    DIM = 256

    def __init__(self, shape: tuple[int, int, int], width: int = 32):
        widths = (shape[0], width, 2 * width, 4 * width, 4 * width)
        layers: list[nn.Module] = []
        height, wide = shape[1:]
        for before, after in zip(widths, widths[1:], strict=False):
            convolution = nn.Conv2d(before, after, 3, 2, 1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
            height, wide = (height + 1) // 2, (wide + 1) // 2
        linear = nn.Linear(widths[-1] * height * wide, self.DIM, bias=False)
        layers += [nn.Flatten(), linear, nn.BatchNorm1d(self.DIM), nn.ReLU()]
        super().__init__(*layers)


class WhatWhereNet(nn.Module):
    """Four convolutions with an output of two parts: what is seen at any place (the maximum of each
    channel), and where it is seen (a coarse map of a few channels).

    The convolutions have the same weights at every place. So a shape that training shows at some
    places is known at all places. The last layer of `SmallNet` has other weights for each place, so
    it must learn a shape at each place anew. No layer mixes the two parts.
    """

    WHAT, WHERE, CELLS = 128, 8, 4  # channels of each part; the map has at most CELLS x CELLS cells

    def __init__(self, shape: tuple[int, int, int], width: int = 16):
        super().__init__()
        widths = (shape[0], width, 2 * width, 4 * width, self.WHAT)
        layers: list[nn.Module] = []
        for before, after, stride in zip(widths, widths[1:], (1, 2, 2, 1), strict=False):
            convolution = nn.Conv2d(before, after, 3, stride, 1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        maps = nn.Conv2d(self.WHAT, self.WHERE, 1, bias=False)
        self.places = nn.Sequential(maps, nn.BatchNorm2d(self.WHERE), nn.ReLU())
        height, wide = (-(-side // 4) for side in shape[1:])
        self.cell = (-(-height // self.CELLS), -(-wide // self.CELLS))
        cells = -(-height // self.cell[0]) * -(-wide // self.cell[1])
        self.DIM = self.WHAT + self.WHERE * cells

    def forward(self, x: Tensor) -> Tensor:
        seen = self.trunk(x)
        # adaptive pooling is not used: its gradient on a GPU depends on the order of additions
        where = F.avg_pool2d(self.places(seen), self.cell, ceil_mode=True)
        return torch.cat([seen.amax((2, 3)), where.flatten(1)], 1)
