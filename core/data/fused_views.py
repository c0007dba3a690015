"""Views by one Triton kernel: a program for each image cuts out, resizes, mirrors, distorts colours
and rounds without leaving the chip.

It computes what `core.data.views.in_part` computes with about two hundred kernels a view, to one
level of 256. B = images, V = views, C = 3 or 1 channels, H W = size of an image, S = size of a
view.
"""

import functools
import importlib.util

import torch
from torch import Tensor

LARGEST = 64  # pixels of a side that fit on the chip
WARPS = {16: 4, 32: 16, 64: 32}  # with which the compiler keeps the planes in registers
COLUMNS = 27  # of the parameters: box 4, mirror 1, mixtures before 9, hue 1, after 9, gray 3


def serves(image: Tensor, size: int) -> bool:
    """Whether the kernel can make views [V, B, C, size, size] of these images: on a GPU, with
    Triton, of small images.
    """
    small = max(size, *image.shape[2:]) <= LARGEST
    return image.device.type == "cuda" and image.dtype == torch.uint8 and small and available()


@functools.cache
def available() -> bool:
    return importlib.util.find_spec("triton") is not None


def make(image: Tensor, parameters: Tensor, size: int) -> Tensor:
    """Views uint8 [V, B, C, S, S] of images uint8 [B, C, H, W]; `parameters` float32 [V, B, 27], as
    `core.data.views.packed` has them.
    """
    views, count = parameters.shape[:2]
    channels, height, width = image.shape[1:]
    out = image.new_empty(views, count, channels, size, size)
    side = _padded(max(size, height, width))
    from core.data.view_kernel import views as kernel  # here: it imports Triton

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
    """The power of two, 16 or more, that holds a side: what a matrix product of Triton takes."""
    return max(16, 1 << (side - 1).bit_length())
