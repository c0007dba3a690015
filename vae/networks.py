"""Encoders of VAEs.

B = images on this process, C H W = image shape, D = encoder features.
"""

from core.backbones import Backbone
from core.batch import as_float
from core.decoders import quartered

import math

from torch import Tensor, nn


class MLPEncoder(nn.Sequential):
    """Images [B, C, H, W] to features [B, D], two hidden layers."""

    def __init__(self, shape: tuple[int, int, int], width: int):
        super().__init__(nn.Flatten(), nn.Linear(math.prod(shape), width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.dim = width

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(as_float(x) * 2 - 1)


class ConvEncoder(nn.Sequential):
    """Strided convolutions without batch norm, so that a code depends on its own image alone. [B, C, H, W] to [B, D]."""

    def __init__(self, shape: tuple[int, int, int], width: int):
        side = quartered(shape, "model.backbone")
        super().__init__(
            nn.Conv2d(shape[0], width, 4, 2, 1),
            nn.GELU(),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(2 * width * side[0] * side[1], 8 * width),
            nn.GELU(),
        )
        self.dim = 8 * width

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(as_float(x) * 2 - 1)


def build_encoder(name: str, shape: tuple[int, int, int], width: int, stem: str) -> nn.Module:
    """ "mlp", "conv", or a backbone that contrastive methods use as well ("small" or a timm name); all have `.dim` features."""
    if name == "mlp":
        return MLPEncoder(shape, width)
    return ConvEncoder(shape, width) if name == "conv" else Backbone(name, shape, stem)
