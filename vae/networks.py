"""Encoders of VAEs.

B = images on this process, C H W = image shape, D = encoder features.
"""

import math

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from core.batch import as_float
from core.networks.backbones import Backbone
from core.networks.decoders import quartered
from core.networks.residual import ResidualBlock


class MLPEncoder(nn.Sequential):
    """Images [B, C, H, W] to features [B, D] by two hidden layers."""

    def __init__(self, shape: tuple[int, int, int], width: int):
        super().__init__(
            nn.Flatten(),
            nn.Linear(math.prod(shape), width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
        )
        self.dim = width

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(as_float(x) * 2 - 1)


class ConvEncoder(nn.Sequential):
    """[B, C, H, W] to [B, D] by strided convolutions, without batch norm."""

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


class ResidualEncoder(nn.Sequential):
    """[B, C, H, W] to [B, D] by residual blocks with weight norm and ELU (Kingma et al. 2016; Chen
    et al. 2017, with width 32). Maps have width / 2 channels at full size, and width channels at
    half and quarter size; D = 14 width.
    """

    def __init__(self, shape: tuple[int, int, int], width: int):
        side, narrow = quartered(shape, "model.backbone"), max(1, width // 2)
        super().__init__(
            weight_norm(nn.Conv2d(shape[0], narrow, 3, 1, 1)),
            ResidualBlock(narrow, narrow),
            ResidualBlock(narrow, width, -2),
            ResidualBlock(width, width),
            ResidualBlock(width, width, -2),
            ResidualBlock(width, width),
            ResidualBlock(width, width),
            nn.ELU(),
            nn.Flatten(),
            weight_norm(nn.Linear(width * side[0] * side[1], 14 * width)),
            nn.ELU(),
        )
        self.dim = 14 * width

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(as_float(x) * 2 - 1)


class LinearEncoder(nn.Flatten):
    """The values of an image, [B, C H W]. The linear map to the posterior's moments follows."""

    def __init__(self, shape: tuple[int, int, int], width: int):
        super().__init__()
        self.dim = math.prod(shape)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(as_float(x))


ENCODERS = {
    "conv": ConvEncoder,
    "mlp": MLPEncoder,
    "residual": ResidualEncoder,
    "linear": LinearEncoder,
}


def build_encoder(name: str, shape: tuple[int, int, int], width: int, stem: str) -> nn.Module:
    """One of `ENCODERS`, or a `Backbone`. All have `.dim` features."""
    return ENCODERS[name](shape, width) if name in ENCODERS else Backbone(name, shape, stem)
