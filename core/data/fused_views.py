"""Views by one Triton kernel. For each image, one program crops, resizes, mirrors, distorts colours
and rounds to 8 bits, all on the chip.

The result differs by at most one of 256 levels from `core.data.views.in_part`, which takes about
200 kernels per view. B = images, V = views, C = 3 or 1 channels, H W = image size, S = view size.
"""

import functools
import importlib.util

import torch
from torch import Tensor

LARGEST = 64  # largest side, in pixels, that fits on the chip
# side -> number of warps; with these, the compiler keeps the planes in registers
WARPS = {16: 4, 32: 16, 64: 32}
COLUMNS = 27  # parameters per image: box 4, mirror 1, mixtures before 9, hue 1, after 9, gray 3


def serves(image: Tensor, size: int) -> bool:
    """Whether the kernel can make these views: small grey or colour images of uint8 on a GPU, with
    Triton.
    """
    small = max(size, *image.shape[2:]) <= LARGEST and image.shape[1] in (1, 3)
    return image.device.type == "cuda" and image.dtype == torch.uint8 and small and available()


@functools.cache
def available() -> bool:
    return importlib.util.find_spec("triton") is not None


def make(image: Tensor, parameters: Tensor, size: int) -> Tensor:
    """Views uint8 [V, B, C, S, S] of images uint8 [B, C, H, W] with `parameters` float32
    [V, B, 27] from `core.data.views.packed`.
    """
    views, count = parameters.shape[:2]
    channels, height, width = image.shape[1:]
    out = image.new_empty(views, count, channels, size, size)
    side = _padded(max(size, height, width))
    from core.data.view_kernel import views as kernel  # imported here, because it imports Triton

    kernel[(count, views)](
        image.contiguous(),
        parameters.contiguous(),
        out,
        count,
        height,
        width,
        size,
        CHANNELS=channels,
        SIDE=side,
        COLUMNS=COLUMNS,
        num_warps=WARPS[side],
    )
    return out


def _padded(side: int) -> int:
    """The next power of two, at least 16, as Triton's matrix product requires."""
    return max(16, 1 << (side - 1).bit_length())
