"""Decoders: codes to the parameters of p(x|z), for VAEs and for the rate-head probe.

B = images on this process, L = latent dimensions, C H W = shape of the output (C = channels of the
image times parameters per value).
"""

import math

from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from core.errors import UserError
from core.networks.residual import ResidualBlock


class MLPDecoder(nn.Sequential):
    """Codes [B, L] to decoder parameters [B, C, H, W], two hidden layers."""

    def __init__(self, latent: int, shape: tuple[int, int, int], width: int):
        last = nn.Linear(width, math.prod(shape))
        layers = [nn.Linear(latent, width), nn.GELU(), nn.Linear(width, width), nn.GELU()]
        super().__init__(*layers, last, nn.Unflatten(1, shape))


class ConvDecoder(nn.Sequential):
    """The reverse of the VAE's `ConvEncoder`: [B, L] to [B, C, H, W]."""

    def __init__(self, latent: int, shape: tuple[int, int, int], width: int):
        side = quartered(shape, "model.decoder")
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


class ResidualDecoder(nn.Sequential):
    """The reverse of the VAE's `ResidualEncoder`: [B, L] to [B, C, H, W], weight norm and ELU."""

    def __init__(self, latent: int, shape: tuple[int, int, int], width: int):
        side, narrow = quartered(shape, "model.decoder"), max(1, width // 2)
        super().__init__(
            weight_norm(nn.Linear(latent, 14 * width)),
            nn.ELU(),
            weight_norm(nn.Linear(14 * width, width * side[0] * side[1])),
            nn.Unflatten(1, (width, *side)),
            ResidualBlock(width, width),
            ResidualBlock(width, width),
            ResidualBlock(width, width, 2),
            ResidualBlock(width, width),
            ResidualBlock(width, narrow, 2),
            ResidualBlock(narrow, narrow),
            nn.ELU(),
            weight_norm(nn.Conv2d(narrow, shape[0], 3, 1, 1)),
        )


class LinearDecoder(nn.Sequential):
    """One linear map of a code, for a linear VAE."""

    def __init__(self, latent: int, shape: tuple[int, int, int], width: int):
        super().__init__(nn.Linear(latent, math.prod(shape)), nn.Unflatten(1, shape))


DECODERS = {
    "conv": ConvDecoder,
    "mlp": MLPDecoder,
    "residual": ResidualDecoder,
    "linear": LinearDecoder,
}


def build_decoder(name: str, latent: int, shape: tuple[int, int, int], width: int) -> nn.Module:
    """One of `DECODERS`. The linear one ignores `width`."""
    return DECODERS[name](latent, shape, width)


def quartered(shape: tuple[int, int, int], key: str) -> tuple[int, int]:
    """A quarter of each side of an image, for two strided convolutions. If a side is not a multiple
    of 4, a `UserError` names `key`.
    """
    if shape[1] % 4 or shape[2] % 4:
        raise UserError(
            f"{key}: convolutional networks need sides that are multiples of 4, but images are"
            f" {shape[1]}x{shape[2]}; set data.size or {key}=mlp"
        )
    return shape[1] // 4, shape[2] // 4
