"""Crop, resize and mirror in one go: bilinear and antialiased, as torchvision.

B = images, C = channels, H W = size of an image, S = side of a view, K = pixels that one output pixel may weigh.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


class Taps(NamedTuple):
    """One axis of it: output pixel i is the sum over k of weight[i, k] times input pixel index[i, k]."""

    index: Tensor  # int64 [B, S, K]
    weight: Tensor  # float [B, S, K]


def taps(start: Tensor, length: Tensor, flip: Tensor, n: int, size: int) -> Taps:
    """Of an axis of n pixels, [start, start + length) becomes S pixels, in reverse where `flip`; three tensors [B].

    Output pixel i weighs the input by a triangle about its own centre. It is as wide as the larger of an input and an output pixel, is cut
    off at the ends of the box and sums to one.
    """
    start, length, flip = (values.view(-1, 1) for values in (start, length, flip))
    scale = length / size
    centre = scale * (torch.arange(size) + 0.5)  # [B, S], counted from the box
    centre = torch.where(flip, length - centre, centre)[..., None]
    length, half = length[..., None], scale.clamp(min=1)[..., None]
    pixel = (centre - half + 0.5).floor() + torch.arange(math.ceil(2 * max(n / size, 1)))  # those less than `half` away
    weight = (1 - (pixel + 0.5 - centre).abs_() / half).clamp_(min=0) * ((pixel >= 0) & (pixel < length))
    index = start[..., None] + torch.minimum(pixel.clamp(min=0), length - 1).long()
    return Taps(index, weight / weight.sum(-1, keepdim=True))


def resized_crop(x: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Floats [B, C, H, W] to [B, C, S, S].

    First whole rows are mixed, which are few and lie in one piece; then columns, by a matrix product.
    """
    images, channels, height, width = x.shape
    lines = x.reshape(-1, width)
    first = torch.arange(0, len(lines), height, device=x.device).view(images, channels, 1, 1)
    index = (first + rows.index[:, None]).flatten(0, 2)
    weight = rows.weight[:, None].expand(-1, channels, -1, -1).flatten(0, 2)
    mixed = embedding_bag(index, lines, per_sample_weights=weight, mode="sum")
    matrix = x.new_zeros(images, width, columns.index.shape[1])
    matrix.scatter_add_(1, columns.index.mT, columns.weight.mT)
    return torch.bmm(mixed.view(images, -1, width), matrix).unflatten(1, (channels, -1))
