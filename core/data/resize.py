"""Crop, resize and mirror in one operation: bilinear and antialiased, like torchvision.

B = images, C = channels, H W = image size, S = side of a view, K = input pixels per output pixel.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


def resized_crop(x: Tensor, box: Tensor, flip: Tensor, size: int) -> Tensor:
    """Cut out boxes, int64 [B, 4] (top, left, height, width), resize them to S x S, and mirror
    those with `flip`, bool [B].

    uint8 becomes float in [0, 1]; floats keep their range. Rows are mixed first, because a row is
    contiguous in memory; a matrix product then mixes the columns.
    """
    images, channels, height, width = x.shape
    # the rows of all images, then the columns of all images
    start, length = box[:, :2].T.flatten(), box[:, 2:].T.flatten()
    both = torch.cat([torch.zeros_like(flip), flip])
    index, weight = taps(start, length, both, max(height, width), size)
    first = torch.arange(0, images * channels * height, height, device=x.device)
    first = first.view(images, channels, 1, 1)
    rows = (first + index[:images, None].mT).flatten(0, 2)
    shares = weight[:images] if x.is_floating_point() else weight[:images] / 255
    shares = shares[:, None].mT.expand(-1, channels, -1, -1).flatten(0, 2)
    mixed = embedding_bag(rows, x.reshape(-1, width).float(), per_sample_weights=shares, mode="sum")
    columns = mixed.new_zeros(images, width, size).scatter_add_(1, index[images:], weight[images:])
    return torch.bmm(mixed.view(images, -1, width), columns).unflatten(1, (channels, size))


def taps(start: Tensor, length: Tensor, flip: Tensor, n: int, size: int) -> tuple[Tensor, Tensor]:
    """The input pixels and weights that resize [start, start + length) to S pixels, reversed if
    `flip`. The three arguments are tensors [B]; no image side is longer than n.

    Output pixel i is the sum over k of weight[k, i] times input pixel index[k, i]; both are
    [B, K, S]. The weights form a triangle around the centre of i. Half of its base is as wide as an
    input pixel or an output pixel, whichever is wider. Pixels outside of the box have the weight 0,
    and the weights of an output pixel sum to one.
    """
    start, length = start.float().view(-1, 1, 1), length.float().view(-1, 1, 1)
    flip = flip.view(-1, 1, 1)
    scale = length / size
    half = scale.clamp(min=1)
    place = torch.arange(size, device=start.device, dtype=start.dtype)
    centre = scale * (place + 0.5)  # [B, 1, S], relative to the box
    centre = torch.where(flip, length - centre, centre)
    near = torch.arange(math.ceil(2 * max(n / size, 1)), device=start.device).view(-1, 1)
    pixel = (centre - half + 0.5).floor() + near  # those less than `half` away
    inside = (pixel >= 0) & (pixel < length)
    weight = (1 - (pixel + 0.5 - centre).abs_() / half).clamp_(min=0) * inside
    index = (start + torch.minimum(pixel.clamp(min=0), length - 1)).long()
    return index, weight / weight.sum(1, keepdim=True)
