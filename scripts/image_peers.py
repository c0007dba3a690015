"""Two published estimators for pairs of images. Each is evaluated as it was published, and on pairs
that it was not trained on.

    MINE  a network reads the codes of both images; the objective is Donsker-Varadhan's bound, and
          its gradient is corrected by a moving average (Belghazi et al. 2018)
    DV    Donsker-Varadhan's bound with a separable critic and all pairs of a batch as negatives

Both were published with the value on training batches. If a critic overfits, this value is no bound
and may be far above the information. So each estimator has two values. One is the mean over the
last quarter of its training batches. The other is the value on a fifth of the pairs, which are not
used for training.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.information.bounds import dv, interval
from core.information.scores import paired

NAMES = ("mine", "dv")
STEPS, BATCH, RATE, CODES = 300, 128, 1e-3, 64
MOVING = 0.99  # weight of the past in MINE's moving average
SHIFTS = 64  # negatives of each held-out pair of MINE
BLOCK = 512


class Peer(nn.Module):
    """An encoder of each side. DV scores by the inner product of codes; MINE by a network on both
    codes.
    """

    def __init__(self, channels: tuple[int, int], joint: bool):
        super().__init__()
        self.of_x, self.of_y = (_encoder(count) for count in channels)
        layers = (nn.Linear(2 * CODES, CODES), nn.ReLU(), nn.Linear(CODES, 1))
        self.head = nn.Sequential(*layers) if joint else None

    def score(self, g: Tensor, h: Tensor) -> Tensor:
        """T [B] of codes of x and y [B, P]."""
        if self.head is None:
            return (g * h).sum(1) / math.sqrt(CODES)
        return torch.as_tensor(self.head(torch.cat([g, h], 1))[:, 0])


def peers(x: NDArray[Any], y: NDArray[Any], seed: int = 0) -> dict[str, dict[str, float]]:
    """For each of `NAMES`: `training`, the value on training batches as published, in nats, and
    `held_out` with its standard `error`, on a fifth of the pairs.
    """
    found = {}
    with torch.random.fork_rng(devices=[]):
        for name in NAMES:
            torch.manual_seed(seed)
            order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
            held, fitted = order[: len(order) // 5], order[len(order) // 5 :]
            sides = [_standardised(side, fitted) for side in (x, y)]
            found[name] = _peer(name == "mine", sides, fitted, held)
    return found


def _peer(joint: bool, sides: list[Tensor], fitted: Tensor, held: Tensor) -> dict[str, float]:
    channels = (sides[0].shape[1], sides[1].shape[1])
    peer = Peer(channels, joint).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(peer.parameters(), lr=RATE)
    objective, seen, batch = _mine() if joint else _dv, [], min(BATCH, len(fitted))
    for _ in range(STEPS):
        rows = fitted[torch.randperm(len(fitted))[:batch]]
        g, h = peer.of_x(sides[0][rows]), peer.of_y(sides[1][rows])
        value, loss = objective(peer, g, h)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(value)
    with torch.no_grad():
        g, h = (
            torch.cat([encoder(part) for part in side[held].split(BLOCK)])
            for encoder, side in zip((peer.of_x, peer.of_y), sides, strict=True)
        )
        value, error = _held(peer, g, h)
    last = seen[-STEPS // 4 :]
    return {"training": sum(last) / len(last), "held_out": value, "error": error}


Objective = Callable[[Peer, Tensor, Tensor], tuple[float, Tensor]]


def _mine() -> Objective:
    """MINE's value and loss. The gradient of log E e^T' is taken as the gradient of E e^T', divided
    by a moving average of E e^T'. Division by the batch's own mean would give a biased gradient.
    """
    average: list[Tensor] = []

    def objective(peer: Peer, g: Tensor, h: Tensor) -> tuple[float, Tensor]:
        own, other = peer.score(g, h), peer.score(g, h[torch.randperm(len(h))])
        mean = other.exp().mean()
        past = average[-1] if average else mean.detach()
        average[:] = [MOVING * past + (1 - MOVING) * mean.detach()]
        value = own.mean() - mean.log()
        return value.item(), -(own.mean() - mean / average[-1])

    return objective


def _dv(peer: Peer, g: Tensor, h: Tensor) -> tuple[float, Tensor]:
    scores, n = g @ h.T / math.sqrt(CODES), len(g)
    others = scores.masked_fill(torch.eye(n, dtype=torch.bool), -math.inf)
    value = scores.diagonal().mean() - others.flatten().logsumexp(0) + math.log(n * (n - 1))
    return value.item(), -value


def _held(peer: Peer, g: Tensor, h: Tensor) -> tuple[float, float]:
    """Donsker-Varadhan's value on held-out codes, and its standard error."""
    if peer.head is None:
        found = interval(*dv(paired(g / math.sqrt(CODES), h)))
        return found.mean, found.error
    own = peer.score(g, h).double()
    shifts = range(1, min(SHIFTS + 1, len(g)))
    others = torch.stack([peer.score(g, h.roll(shift, 0)) for shift in shifts]).double()
    log_mean = others.flatten().logsumexp(0) - math.log(others.numel())
    influence = own - (others - log_mean).exp().mean(0)
    found = interval(own - log_mean, influence)
    return found.mean, found.error


def _encoder(channels: int) -> nn.Sequential:
    """Images [B, C, H, W] to codes [B, 64]."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 7, 4, 3),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(512, 128),
        nn.ReLU(),
        nn.Linear(128, CODES),
    )


def _standardised(images: NDArray[Any], fitted: Tensor) -> Tensor:
    whole = torch.from_numpy(images).float()
    some = whole[fitted[:1000]]
    return (whole - some.mean()) / some.std()
