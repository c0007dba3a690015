"""Encoders and decoders of VAEs.

B = images on this process, C H W = image shape, D = encoder features, L = latent dimensions.
"""

from core.backbones import Backbone
from core.batch import as_float

import math

from torch import Tensor, nn


class MLPEncoder(nn.Sequential):
    """Images [B, C, H, W] to features [B, D], two hidden layers."""

    def __init__(self, shape: tuple[int, int, int], width: int):
        super().__init__(nn.Flatten(), nn.Linear(math.prod(shape), width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.dim = width

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(as_float(x) * 2 - 1)


class MLPDecoder(nn.Sequential):
    """Codes [B, L] to decoder parameters [B, C, H, W], two hidden layers."""

    def __init__(self, latent: int, shape: tuple[int, int, int], width: int):
        last = nn.Linear(width, math.prod(shape))
        super().__init__(nn.Linear(latent, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), last, nn.Unflatten(1, shape))


class ConvEncoder(nn.Sequential):
    """Strided convolutions without batch norm, so that a code depends on its own image alone. [B, C, H, W] to [B, D]."""

    def __init__(self, shape: tuple[int, int, int], width: int):
        side = _quartered(shape)
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


class ConvDecoder(nn.Sequential):
    """The mirror image of `ConvEncoder`: [B, L] to [B, C, H, W]."""

    def __init__(self, latent: int, shape: tuple[int, int, int], width: int):
        side = _quartered(shape)
        super().__init__(
            nn.Linear(latent, 8 * width),
            nn.GELU(),
            nn.Linear(8 * width, 2 * width * side[0] * side[1]),
            nn.GELU(),
            nn.Unflatten(1, (2 * width, *side)),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1),
            nn.GELU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
            nn.GELU(),
            nn.ConvTranspose2d(width, shape[0], 4, 2, 1),
        )


def build_encoder(name: str, shape: tuple[int, int, int], width: int, stem: str) -> nn.Module:
    """ "mlp", "conv", or a backbone that contrastive methods use as well ("small" or a timm name); all have `.dim` features."""
    if name == "mlp":
        return MLPEncoder(shape, width)
    return ConvEncoder(shape, width) if name == "conv" else Backbone(name, shape, stem)


def build_decoder(name: str, latent: int, shape: tuple[int, int, int], width: int) -> nn.Module:
    """ "mlp" or "conv"."""
    return MLPDecoder(latent, shape, width) if name == "mlp" else ConvDecoder(latent, shape, width)


def _quartered(shape: tuple[int, int, int]) -> tuple[int, int]:
    if shape[1] % 4 or shape[2] % 4:
        raise ValueError(f"backbone: convolutional networks need sides that divide by 4, images are {shape[1]}x{shape[2]}; set data.size")
    return shape[1] // 4, shape[2] // 4
