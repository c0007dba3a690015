"""A linear probe that is trained with noise: a bound on what its weights hold about its images.

S = the n images of the bound, D = dimensions, Y = classes, W = weights [Y, D + 1].
"""

import math
from collections.abc import Callable
from statistics import fmean
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from core.information.generalisation import expected_gap
from core.randomness import KeyedRNG

NOISES = (0.01, 0.02, 0.04, 0.08)  # deviations of the noise that each step adds to each weight
RATE, STEPS = 2.0, 20  # the curvature of the loss is at most 1/2 for features with covariance I
DRAWS = 3  # trained probes for each level of noise
Drift = Callable[[Tensor], tuple[Tensor, Tensor]]


class Level(NamedTuple):
    """A level of noise: means over trained probes, errors as shares."""

    noise: float
    information: float  # I(S; W) is at most this, in nats
    gap: float  # sqrt(information / 2n)
    error: float  # on S
    test: float


def descent(start: Tensor, drift: Drift, noise: float, rng: KeyedRNG,
            rate: float = RATE, steps: int = STEPS) -> tuple[Tensor, float]:  # fmt: skip
    """The weights after steps of noisy gradient descent, and their divergence from a prior in nats:

        W_{t+1} = W_t - rate g(W_t) + noise e_t,   e_t ~ N(0, I)

    `drift(W)` gives g and the gradient g0 of the prior. The prior is the same descent with g0. By
    the chain rule, the divergence of the whole path is the mean over paths of the sum of rate^2
    |g - g0|^2 / (2 noise^2). The divergence of the last weights is not larger. If g0 does not
    depend on S, then I(S; W) <= E KL (Negrea et al. 2019, where g0 is the gradient of other data).
    """
    weights, divergence = start, 0.0
    for step in range(steps):
        own, prior = drift(weights)
        divergence += (own - prior).double().square().sum().item() * rate**2 / (2 * noise**2)
        shift = noise * rng.normal(f"noise {step}", *weights.shape).to(weights.dtype)
        weights = weights - rate * own + shift
    return weights, divergence


def levels(
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: int,
    rng: KeyedRNG,
) -> list[Level]:
    """Probes with each level of noise, trained on both halves (x [n, D], y [n]) from zero weights.

    S is the second half. The prior is the same descent on the first half alone. So its gradient is
    the same mean, but without the images of S. The scale of x must not depend on S.
    """
    one, two, new = (_with_one(*part) for part in (first, second, test))
    start = torch.zeros(classes, one[0].shape[1])
    share, n = len(two[0]) / (len(one[0]) + len(two[0])), len(two[0])

    def drift(weights: Tensor) -> tuple[Tensor, Tensor]:
        prior, other = _gradient(*one, weights), _gradient(*two, weights)
        return (1 - share) * prior + share * other, prior

    found = []
    for noise in NOISES:
        made = [descent(start, drift, noise, rng.fork(f"{noise} {draw}")) for draw in range(DRAWS)]
        information = fmean(divergence for _, divergence in made)
        errors = [fmean(_error(*part, weights) for weights, _ in made) for part in (two, new)]
        found.append(Level(noise, information, expected_gap(information, n), *errors))
    return found


def best(found: list[Level], n: int) -> tuple[Level, float]:
    """The level with the least bound on the mean error, and this bound:

        error on S + sqrt( (I + log levels) / 2n )

    The level is chosen on S. The term log levels accounts for this choice: the prior is the mixture
    of the priors of all levels.
    """

    def bound(level: Level) -> float:
        return level.error + expected_gap(level.information + math.log(len(found)), n)

    chosen = min(found, key=bound)
    return chosen, min(1.0, bound(chosen))


def _with_one(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return F.pad(x.float(), (0, 1), value=1.0), y


def _gradient(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """The gradient of the mean cross-entropy, [Y, D + 1]."""
    shares = F.softmax(x @ weights.T, 1)
    shares[torch.arange(len(y)), y] -= 1
    return shares.T @ x / len(x)


def _error(x: Tensor, y: Tensor, weights: Tensor) -> float:
    return ((x @ weights.T).argmax(1) != y).double().mean().item()
