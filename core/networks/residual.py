"""A residual block with weight norm and ELU (Kingma et al. 2016; Chen et al. 2017).

B = images, C H W = shape of a map.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class ResidualBlock(nn.Module):
    """[B, C, H, W] to [B, outputs, H', W']: x + f(x), where f is two 3x3 convolutions after ELUs.

    `scale` 1 keeps the sides, -2 halves them and 2 doubles them. For -2 and 2, x is resized, too.
    For 2, the first of the two convolutions is a transposed 4x4 convolution. If the number of
    channels changes, x goes through a 1x1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, scale: int = 1):
        super().__init__()
        self.scale = scale
        first = (
            nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)
            if scale == 2
            else nn.Conv2d(inputs, outputs, 3, 2 if scale == -2 else 1, 1)
        )
        # weight norm counts a transposed convolution's outputs along dimension 1
        self.first = weight_norm(first, dim=1 if scale == 2 else 0)
        self.second = weight_norm(nn.Conv2d(outputs, outputs, 3, 1, 1))
        self.shortcut = (
            nn.Identity() if inputs == outputs else weight_norm(nn.Conv2d(inputs, outputs, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        change = self.second(F.elu(self.first(F.elu(x))))
        if self.scale == 2:
            x = F.interpolate(x, scale_factor=2.0)
        elif self.scale == -2:
            x = F.avg_pool2d(x, 2)
        return self.shortcut(x) + change
