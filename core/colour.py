"""Colour distortions of a batch, each with its own strength for each image.

x float [B, C, H, W] in [0, 1], C = 3 or 1; a strength is float [B]. Every operation is torchvision's of the same name on floats;
with one channel, saturation, hue and grayscale change nothing.
"""

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, to the digits that torchvision keeps


def luma(x: Tensor) -> Tensor:
    """The gray image Y = .2989 R + .587 G + .114 B, [B, 1, H, W]."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def blend(x: Tensor, other: Tensor, strength: Tensor) -> Tensor:
    """clamp(strength x + (1 - strength) other), where `other` broadcasts to x."""
    return torch.lerp(other, x, strength.view(-1, 1, 1, 1)).clamp_(0, 1)


def brightness(x: Tensor, strength: Tensor) -> Tensor:
    """clamp(strength x)."""
    return (x * strength.view(-1, 1, 1, 1)).clamp_(0, 1)


def contrast(x: Tensor, strength: Tensor) -> Tensor:
    """Blend with the mean of the gray image: 0 is uniform gray, 1 changes nothing."""
    # One axis at a time: the order of a long sum over several must not hang on how many images are in the batch.
    return blend(x, luma(x.mean(3, keepdim=True).mean(2, keepdim=True)), strength)


def saturation(x: Tensor, strength: Tensor) -> Tensor:
    """Blend with the gray image: 0 is gray, 1 changes nothing."""
    return x if x.shape[1] == 1 else blend(x, luma(x), strength)


def hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of HSV by `shift` in [-0.5, 0.5] turns.

    With V = max(R, G, B), chroma c = V - min(R, G, B) and hue h in sixths of a turn, a channel is V - c clamp(2 - |h - h0|, 0, 1),
    where the distance is round the circle and h0 is the hue opposite to the channel: 3 for red, 5 for green, 1 for blue.
    """
    if x.shape[1] == 1:
        return x
    red, green, blue = x.split(1, dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    scale = torch.where(chroma == 0, 1, chroma).reciprocal_()
    most_green, most_blue = (blue - red).mul_(scale).add_(2), (red - green).mul_(scale).add_(4)
    angle = torch.where(value == red, (green - blue).mul_(scale), torch.where(value == green, most_green, most_blue))
    angle += 6 * shift.view(-1, 1, 1, 1)
    shifted = torch.tensor([0.0, 2.0, 4.0], device=x.device).view(3, 1, 1)  # h0 less half a turn: |(h - this) mod 6 - 3| is the distance
    part = (angle - shifted).remainder_(6).sub_(3).abs_().neg_().add_(2).clamp_(0, 1)
    return torch.addcmul(value, part, chroma, value=-1).clamp_(0, 1)


def grayscale(x: Tensor, chosen: Tensor) -> Tensor:
    """The gray image in every channel, for the images that are chosen, bool [B]."""
    return x if x.shape[1] == 1 else torch.where(chosen.view(-1, 1, 1, 1), luma(x), x)


OPERATIONS = (brightness, contrast, saturation, hue)  # the columns of `strength`, numbered as in torchvision's ColorJitter


def jitter(x: Tensor, chosen: Tensor, order: Tensor, strength: Tensor) -> Tensor:
    """Apply all of `OPERATIONS` to the chosen images (bool [B]), to each in its own order (int64 [B, 4], numbers of operations).

    `strength` is float [B, 4]. `chosen` and `order` live on the CPU: they decide on which images the device works, so that it computes
    nothing that is thrown away and nobody waits for it.
    """
    out, strength = x.clone(), strength.to(x.device)
    for turn in order.unbind(1):
        for number, operation in enumerate(OPERATIONS[: 4 if x.shape[1] == 3 else 2]):
            which = torch.nonzero(chosen & (turn == number)).squeeze(1).to(x.device)
            if len(which):
                out[which] = operation(out[which], strength[which, number])
    return out
