"""Crop, resize and mirror in one go: bilinear and antialiased, as torchvision.

B = images, C = channels, H W = size of an image, S = side of a view, K = pixels that one output
pixel may weigh.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


def resized_crop(x: Tensor, box: Tensor, flip: Tensor, size: int) -> Tensor:
    """Cut out boxes, int64 [B, 4] (top, left, height, width), resize them to S x S and mirror where
    `flip`, bool [B].

    Bytes become floats in [0, 1], floats keep their range. First whole rows are mixed, which are
    few and lie in one piece; then columns, by a matrix product.
    """
    images, channels, height, width = x.shape
    start, length = (
        box[:, :2].T.flatten(),
        box[:, 2:].T.flatten(),
    )  # of all rows, then of all columns
    index, weight = taps(
        start, length, torch.cat([torch.zeros_like(flip), flip]), max(height, width), size
    )
    first = torch.arange(0, images * channels * height, height, device=x.device).view(
        images, channels, 1, 1
    )
    rows = (first + index[:images, None].mT).flatten(0, 2)
    shares = (
        (weight[:images] if x.is_floating_point() else weight[:images] / 255)[:, None]
        .mT.expand(-1, channels, -1, -1)
        .flatten(0, 2)
    )
    mixed = embedding_bag(rows, x.reshape(-1, width).float(), per_sample_weights=shares, mode="sum")
    columns = mixed.new_zeros(images, width, size).scatter_add_(1, index[images:], weight[images:])
    return torch.bmm(mixed.view(images, -1, width), columns).unflatten(1, (channels, size))


def taps(start: Tensor, length: Tensor, flip: Tensor, n: int, size: int) -> tuple[Tensor, Tensor]:
    """Of axes of at most n pixels, [start, start + length) becomes S pixels, in reverse where
    `flip`; three tensors [B].

    Output pixel i is the sum over k of weight[k, i] times input pixel index[k, i]; both are [B, K,
    S]. The weights are a triangle about the centre of i. It is as wide as the larger of an input
    and an output pixel, is cut off at the ends of the box and sums to one.
    """
    start, length, flip = (
        start.float().view(-1, 1, 1),
        length.float().view(-1, 1, 1),
        flip.view(-1, 1, 1),
    )
    scale = length / size
    half = scale.clamp(min=1)
    centre = scale * (
        torch.arange(size, device=start.device, dtype=start.dtype) + 0.5
    )  # [B, 1, S], counted from the box
    centre = torch.where(flip, length - centre, centre)
    near = torch.arange(math.ceil(2 * max(n / size, 1)), device=start.device).view(-1, 1)
    pixel = (centre - half + 0.5).floor() + near  # those less than `half` away
    weight = (1 - (pixel + 0.5 - centre).abs_() / half).clamp_(min=0) * (
        (pixel >= 0) & (pixel < length)
    )
    index = (start + torch.minimum(pixel.clamp(min=0), length - 1)).long()
    return index, weight / weight.sum(1, keepdim=True)
