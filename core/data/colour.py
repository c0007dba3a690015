"""Colour distortions of a batch, with a strength for each image.

An image is a list of planes: 3 or 1 tensors, float [B, H, W] in [0, 1], changed in place. A
strength is float [B]. Every operation equals torchvision's operation of the same name on floats;
with one channel, saturation, hue and grayscale change nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, to the digits that torchvision keeps
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # columns of `strength`, as in ColorJitter
SAME, GRAY = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)  # mixtures
TINY = 1e-30  # replaces the chroma of a gray pixel, which has no hue


def luma(planes: Sequence[Tensor]) -> Tensor:
    """The gray image Y = .2989 R + .587 G + .114 B, [B, H, W]."""
    if len(planes) == 1:
        return planes[0].clone()
    red, green, blue = planes
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def mixture(operation: Tensor, strength: Tensor) -> Tensor:
    """The weights (own, gray, level) of `mix`, [..., 3], for operations [...] of strength s [...].

    Brightness is (s, 0, 0), contrast (s, 0, 1 - s), saturation (s, 1 - s, 0).
    """
    rest = 1 - strength
    return torch.stack(
        [strength, rest * (operation == SATURATION), rest * (operation == CONTRAST)], dim=-1
    )


def mix(planes: Sequence[Tensor], weight: Tensor) -> None:
    """X <- clamp(own X + gray Y + level mean(Y)) for every plane X, with the gray image Y and
    weight = (own, gray, level), [B, 3].
    """
    own, gray, level = weight.view(-1, 3, 1, 1).unbind(1)
    y = luma(planes)
    mean = y.flatten(1).mean(1).view(-1, 1, 1)
    rest = y.mul_(gray).add_(mean.mul_(level))
    for plane in planes:
        plane.mul_(own).add_(rest).clamp_(0, 1)


def turn_hue(planes: Sequence[Tensor], shift: Tensor) -> None:
    """Shift the hue of HSV by `shift`, in turns of the colour circle.

    Let m = min(R, G, B) and the chroma c = max(R, G, B) - m. The hue h in [-3, 3] is measured in
    sixths of a turn from red: |h| = 1 + (G + B - R - m) / c, and h has the sign of G - B. Then a
    channel is m + c clamp(e - 1, 0, 1). Here e is the distance of h from the hue opposite to the
    channel: 3 - |h| for red, |h + 1| for green and |h - 1| for blue. (Distances above 3 should be
    taken the other way round the circle, but the clamp gives 1 for both.)
    """
    red, green, blue = planes
    least = torch.minimum(torch.minimum(green, blue), red)
    chroma = torch.maximum(torch.maximum(green, blue), red).sub_(least)
    hue = (green + blue).sub_(red).sub_(least).div_(chroma.clamp(min=TINY)).add_(1)
    hue = hue.copysign_(green - blue).add_(6 * shift.view(-1, 1, 1))
    hue.sub_((hue / 6).round_(), alpha=6)
    least.sub_(chroma)  # clamp(e - 1, 0, 1) = clamp(e, 1, 2) - 1
    torch.sub(hue.abs(), 3, out=red)
    torch.add(hue, 1, out=green)
    torch.sub(hue, 1, out=blue)
    for plane in planes:
        plane.abs_().clamp_(1, 2).mul_(chroma).add_(least)


class Steps(NamedTuple):
    """What `jitter` does to each image: three mixtures, a hue shift, and three mixtures. Mixtures
    that an image does not need have the weights SAME.
    """

    before: Tensor  # float [B, 3, 3]
    shift: Tensor  # float [B]
    after: Tensor  # float [B, 3, 3]


def hue_turn(chosen: Tensor, order: Tensor) -> Tensor:
    """The position, 0 to 3, of the hue shift among the operations of each image, int64 [B]; 4 for
    images that are not chosen.
    """
    return torch.where(chosen, (order == HUE).int().argmax(1), 4)


def steps(chosen: Tensor, order: Tensor, strength: Tensor) -> Steps:
    """The steps of all four operations for the chosen images.

    chosen: bool [B]; order: int64 [B, 4], each image's own order of operations; strength: float
    [B, 4], one column per operation.
    """
    others = order[order != HUE].view(-1, 3)
    weight = mixture(others, strength.gather(1, others))
    early = torch.arange(3) < hue_turn(chosen, order)[:, None]
    before, after = (
        torch.where((chosen[:, None] & part)[..., None], weight, torch.tensor(SAME))
        for part in (early, ~early)
    )
    return Steps(before, torch.where(chosen, strength[:, HUE], 0), after)


def jitter(planes: Sequence[Tensor], todo: Steps, turn: Tensor | None = None) -> None:
    """Apply the steps in place.

    Three of the four operations are a `mix`, so images differ only in the position of the hue shift
    among their operations. If the images are sorted by that position, pass it as `turn`
    (`hue_turn`, on the CPU): each step then touches only the images that it changes. Without it,
    every step touches all images.
    """
    ends: list[int | None] = [0, 0, 0, None]
    if turn is not None:
        ends = torch.searchsorted(turn, torch.arange(4), right=True).tolist()
    early = [slice(end, ends[3]) for end in ends[:3]]
    late = [slice(ends[3] if turn is None else end) for end in ends[:3]]
    for j, part in enumerate(early):
        mix([plane[part] for plane in planes], todo.before[part, j])
    if len(planes) == 3:
        turn_hue([plane[: ends[3]] for plane in planes], todo.shift[: ends[3]])
    for j, part in enumerate(late):
        mix([plane[part] for plane in planes], todo.after[part, j])


def grayscale(planes: Sequence[Tensor], chosen: Tensor) -> None:
    """Replace every plane by the gray image, for the images at `chosen`, int64 [k]."""
    if len(planes) == 3:
        gray = luma([plane.index_select(0, chosen) for plane in planes])
        for plane in planes:
            plane[chosen] = gray
