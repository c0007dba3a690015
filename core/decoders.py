"""Decoders: codes to the parameters of p(x|z). A VAE has one of its own; the rate head gives every encoder the same one.

B = images on this process, C H W = image shape, L = latent dimensions.
"""

from core.errors import UserError

import math

from torch import nn


class MLPDecoder(nn.Sequential):
    """Codes [B, L] to decoder parameters [B, C, H, W], two hidden layers."""

    def __init__(self, latent: int, shape: tuple[int, int, int], width: int):
        last = nn.Linear(width, math.prod(shape))
        super().__init__(nn.Linear(latent, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), last, nn.Unflatten(1, shape))


class ConvDecoder(nn.Sequential):
    """The mirror image of the VAE's `ConvEncoder`: [B, L] to [B, C, H, W]."""

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


def build_decoder(name: str, latent: int, shape: tuple[int, int, int], width: int) -> nn.Module:
    """ "mlp" or "conv"."""
    return MLPDecoder(latent, shape, width) if name == "mlp" else ConvDecoder(latent, shape, width)


def quartered(shape: tuple[int, int, int], key: str) -> tuple[int, int]:
    """A quarter of an image's sides, for two strided convolutions; a `UserError` names the config's `key` that asks for them."""
    if shape[1] % 4 or shape[2] % 4:
        raise UserError(
            f"{key}: convolutional networks need sides that divide by 4, images are {shape[1]}x{shape[2]}; set data.size or {key}=mlp"
        )
    return shape[1] // 4, shape[2] // 4
