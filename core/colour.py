"""Colour distortions of a batch, each with its own strength for each image.

x float [B, C, H, W] in [0, 1], C = 3 or 1; a strength is float [B]. Every operation is torchvision's of the same name on floats;
with one channel, saturation, hue and grayscale change nothing. A name that ends in _ works in place.
"""

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, to the digits that torchvision keeps
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # the columns of `strength`, numbered as in torchvision's ColorJitter
TINY = 1e-30  # stands for the chroma of a gray pixel, whose hue does not matter


def luma(x: Tensor) -> Tensor:
    """The gray image Y = .2989 R + .587 G + .114 B, [B, 1, H, W]."""
    if x.shape[1] == 1:
        return x.clone()
    red, green, blue = x.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def mixture(operation: Tensor, strength: Tensor) -> Tensor:
    """Brightness, contrast and saturation of strength s as weights (own, gray, level) of `mix_`: [...] and [...] to [..., 3].

    Brightness is (s, 0, 0), contrast (s, 0, 1 - s), saturation (s, 1 - s, 0).
    """
    rest = 1 - strength
    return torch.stack([strength, rest * (operation == SATURATION), rest * (operation == CONTRAST)], dim=-1)


def mix_(x: Tensor, weight: Tensor) -> Tensor:
    """x <- clamp(own x + gray Y + level mean(Y)), where Y is the gray image and weight = (own, gray, level), [B, 3]."""
    if not len(x):
        return x
    own, gray, level = weight.view(-1, 3, 1, 1, 1).unbind(1)
    y = luma(x)
    mean = y.flatten(1).mean(1).view(-1, 1, 1, 1)
    return x.mul_(own).add_(y.mul_(gray).add_(mean.mul_(level))).clamp_(0, 1)


def turn_(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of HSV by `shift`, in turns.

    With m = min(R, G, B), chroma c = max(R, G, B) - m and hue h in sixths of a turn from red: |h| = 1 + (G + B - R - m) / c, and the sign,
    which says whether the way leads over green or over blue, is that of G - B. A channel is m + c clamp(2 - d, 0, 1), where d in [0, 3] is
    how far h lies round the circle from the channel's own hue, 0, 2 or -2; for h in [-3, 3] that is d = 3 - ||h - own| - 3|.
    """
    red, green, blue = x.split(1, dim=1)
    least, chroma = torch.minimum(green, blue), torch.maximum(green, blue)
    torch.minimum(least, red, out=least)
    torch.maximum(chroma, red, out=chroma).sub_(least)
    hue = (green + blue).sub_(red).sub_(least).div_(chroma.clamp(min=TINY)).add_(1)
    hue = hue.copysign_(green - blue).div_(6).add_(shift.view(-1, 1, 1, 1))
    hue = hue.sub_(hue.round()).mul_(6)
    for channel, own in zip((red, green, blue), (0, 2, -2), strict=True):
        torch.sub(hue, own, out=channel).abs_().sub_(3).abs_().clamp_(1, 2)
    return torch.addcmul(least.sub_(chroma), x, chroma, out=x)


def grayscale_(x: Tensor, chosen: Tensor) -> Tensor:
    """The gray image in every channel, for the images at `chosen`, int64 [k]."""
    if x.shape[1] == 3:
        x[chosen] = luma(x.index_select(0, chosen))
    return x


def hue_turn(chosen: Tensor, order: Tensor) -> Tensor:
    """The turn, 0 to 3, at which each image's hue is turned, int64 [B]; 4 for an image that is not chosen."""
    return torch.where(chosen, (order == HUE).int().argmax(1), 4)


def jitter_(x: Tensor, chosen: Tensor, order: Tensor, strength: Tensor) -> Tensor:
    """Apply all four operations to the chosen images (bool [B]), to each in its own order (int64 [B, 4], numbers of operations).

    `strength` is float [B, 4]. Three of the operations are one, `mix_`, so images differ only in the turn at which their hue is turned.
    They must come sorted by it (`hue_turn`): then those that a step concerns lie side by side, and there are three steps before the hue,
    the hue of all at once, and three steps after it. `chosen`, `order` and `strength` live on the CPU: they decide on which images the
    device works, so that nobody waits for it.
    """
    # ends[j]: how many images have their hue turned at turn j or before; with one channel there is no hue to wait for.
    ends = torch.searchsorted(hue_turn(chosen, order), torch.arange(4), right=True).tolist()
    others = order[order != HUE].view(-1, 3)
    weight = mixture(others, strength.gather(1, others)).to(x.device)
    for step in range(3):
        mix_(x[ends[step] : ends[3]], weight[ends[step] : ends[3], step])
    if x.shape[1] == 3:
        turn_(x[: ends[3]], strength[: ends[3], HUE].to(x.device))
    for step in range(3):
        mix_(x[: ends[step]], weight[: ends[step], step])
    return x
