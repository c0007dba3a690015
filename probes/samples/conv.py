"""Convolutional critics for pairs in which one side or both are images.

n = pairs, B = batch, P = code dimensions, c x h x w = the last feature map.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from probes.samples.normal_scores import features, normal_scores
from probes.samples.panel import HIDDEN, Panel, Plan

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
# of each convolution: channels, side of the kernel, stride. The first convolution reads the most
# pixels, so its large stride saves most of the time. Channels are multiples of 16, for AVX-512.
FIRST, FIRST_OF_SMALL = (16, 7, 4), (16, 5, 2)
THEN = ((32, 3, 2), (32, 3, 1))
SMALL = 24  # pixels; of a shorter side, the large first stride would leave at most 3 places
LOCAL, CODES, POOLED = 8, 32, 4
BATCH, RATE, DECAY, DROPOUT = 128, 2e-3, 1e-2, 0.3
# The number of epochs is chosen so that a critic reads this number of pixels in training (counted
# on the larger of x and y), but at least LEAST_EPOCHS and at most MOST_EPOCHS.
PIXELS = 2.0e7
LEAST_EPOCHS, MOST_EPOCHS, LOOKS, PATIENCE = 8, 20, 1, 4  # LOOKS: tests in an epoch, see `Plan`
LEAST_STEPS, MOST_LOOKS = 160, 40
LARGEST = 2**14  # pixels; larger images are averaged down
BLOCK = 256  # images that are encoded at a time


class Images(Panel):
    """One critic of x and y, [n, C, H, W] or [n, d]:

    f(x, y) = sum over places <g_p(x), h_p(y)>  +  <g(x), h(y)> + a(x) + b(y)

    The first sum compares the places of two images of equal size, with one map for all places, so
    that this map learns from every place. If x and y are not images of equal size, this sum is left
    out. All other terms see the whole image. Images of equal size also share the convolutions.
    `used`: the training rows.
    """

    critics = 1
    of_x: "_Tower"
    of_y: "_Tower"

    def __init__(self, x: NDArray, y: NDArray, used: Rows):
        super().__init__()
        self.sides = [_side(side, used) for side in (x, y)]
        alike = self.sides[0].shape[1:] == self.sides[1].shape[1:] and x.ndim == 4
        first = _trunk(self.sides[0], used)
        second = first if alike else _trunk(self.sides[1], used)
        self.of_x, self.of_y = (
            _Tower(trunk, side, alike)
            for trunk, side in zip((first, second), self.sides, strict=True)
        )
        with torch.no_grad():  # the score starts at zero
            for layer in (self.of_y.local, self.of_y.whole[-1]):
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    for parameter in layer.parameters():
                        parameter.zero_()
            alone = self.of_x.whole[-1]
            assert isinstance(alone, nn.Linear)
            alone.weight[-1] = alone.bias[-1] = 0
        largest = max(math.prod(side.shape[2:]) for side in self.sides)
        epochs = PIXELS / (largest * len(used))
        epochs = min(MOST_EPOCHS, max(LEAST_EPOCHS, epochs))
        batch = min(BATCH, len(used) // 2)
        an_epoch = max(1, len(used) // batch)
        looks = max(1, an_epoch // LOOKS)
        steps = max(LEAST_STEPS, math.ceil(epochs * an_epoch))
        looks = max(looks, steps // MOST_LOOKS)
        self.plan = Plan(steps, batch, RATE, DECAY, looks, PATIENCE)

    def codes(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.sides
        blocks = [rows[0]] if self.training else rows[0].split(BLOCK)
        parts = [(self.of_x(x[block]), self.of_y(y[block])) for block in blocks]
        g, h = (torch.cat(side) for side in zip(*parts, strict=True))
        one = torch.ones_like(g[:, :1])
        q, k = torch.cat([g, one], 1), torch.cat([h[:, :-1], one, h[:, -1:]], 1)
        return q[None], k[None]

    def keep(self, better: Tensor, kept: dict[str, Tensor]) -> None:
        kept.update((name, tensor.clone()) for name, tensor in self.state_dict().items())


class _Tower(nn.Module):
    """Codes [B, P] of one side: for every place, for the whole image, and a number a(x)."""

    def __init__(self, trunk: nn.Module, side: Tensor, local: bool):
        super().__init__()
        self.trunk = trunk
        with torch.no_grad():
            shape = trunk.eval()(side[:2]).shape[1:]
            trunk.train()
        self.local = nn.Conv2d(shape[0], LOCAL, 1) if local else None
        if len(shape) == 1:
            self.whole = nn.Sequential(nn.Linear(shape[0], CODES + 1))
            return
        pooled = (min(POOLED, shape[1]), min(POOLED, shape[2]))
        self.whole = nn.Sequential(
            nn.AdaptiveAvgPool2d(pooled),
            nn.Flatten(),
            nn.Dropout(DROPOUT),
            nn.Linear(shape[0] * math.prod(pooled), HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, CODES + 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        seen = self.trunk(x)
        whole = self.whole(seen)
        return whole if self.local is None else torch.cat([self.local(seen).flatten(1), whole], 1)


class _Standardise(nn.Module):
    """Pixels of any type, standardised by the mean and the deviation of their channel."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, images: Tensor, used: Rows):
        super().__init__()
        some = images[torch.from_numpy(used[:1000])].float()
        deviation = some.std((0, 2, 3), keepdim=True)
        self.register_buffer("mean", some.mean((0, 2, 3), keepdim=True))
        self.register_buffer("deviation", torch.where(deviation > 0, deviation, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        seen = (x - self.mean).div_(self.deviation).to(memory_format=torch.channels_last)
        while math.prod(seen.shape[2:]) > LARGEST:
            seen = F.avg_pool2d(seen, 2)
        return seen


def _trunk(side: Tensor, used: Rows) -> nn.Module:
    """Images to a map [B, c, h, w]; features of vectors to [B, HIDDEN]."""
    if side.ndim == 2:
        widths = ((side.shape[1], HIDDEN), (HIDDEN, HIDDEN))
        return nn.Sequential(*(part for pair in widths for part in (nn.Linear(*pair), nn.SiLU())))
    layers: list[nn.Module] = [_Standardise(side, used)]
    channels = side.shape[1]
    first = FIRST if min(side.shape[2:]) >= SMALL else FIRST_OF_SMALL
    for width, size, stride in (first, *THEN):
        layers += [
            nn.Conv2d(channels, width, size, stride, size // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        channels = width
    trunk = nn.Sequential(*layers)
    return trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _side(values: NDArray, used: Rows) -> Tensor:
    """Images unchanged, or features [n, d] of vectors, fitted on the training rows."""
    if values.ndim == 4:
        return torch.from_numpy(values)
    scores = normal_scores(values[used], values)
    return torch.from_numpy(features(values[used], values, scores)).float()
