"""A lower confidence limit of mutual information that assumes nothing about the distribution.

n = pairs, C = candidates of a block, m = n / C blocks, D = code dimensions, R = range of the score.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.errors import Unmeasurable

DELTA = 0.01
LEAST_BLOCKS, MOST_CANDIDATES, MOST_CHOSEN_ON = 8, 512, 4096
BET = 0.75  # the largest bet, as a share of the capital
GUESSED = 10  # the guessed variance has the weight of this many values
FLOORS = (0.0, 0.25, 0.5, 0.75)  # tried by `choose`, as shares of the range of scale <q, k>


class Certificate(NamedTuple):
    """I >= low with confidence 1 - delta, in nats. `point` is the mean of the blocks."""

    low: float
    point: float
    confidence: float
    candidates: int
    blocks: int
    floor: float


def certificate(
    codes: tuple[Tensor, Tensor],
    chosen_on: tuple[Tensor, Tensor],
    scale: float,
    delta: float = DELTA,
) -> Certificate:
    """A lower limit of I(X; Y) from unit codes [n, D] of pairs that a frozen encoder has not seen.

        f(x, y) = log(exp(scale <q, k>) + exp(floor)),   max f - min f = R (`score_range`)

    The value of a block of C pairs is its InfoNCE, the mean of both directions. It is bounded, and
    its expectation is at most I. Blocks are disjoint, so they are independent given the encoder.
    So `lower_limit` gives a limit of this expectation that holds with probability 1 - delta for
    every distribution and every m. C and the floor are chosen on other pairs, `chosen_on`.
    Raises `Unmeasurable` for codes that are not finite or not of unit length, and for fewer than
    16 pairs.
    """
    for query, key in (codes, chosen_on):
        for side in (query, key):
            lengths = side.double().norm(dim=1)
            if not torch.isfinite(lengths).all() or (lengths - 1).abs().max() > 1e-3:
                raise Unmeasurable(
                    "certificate: needs codes of length 1, because only their score is bounded"
                )
    n = len(codes[0])
    chosen = choose(*chosen_on, scale, n, delta)
    values = block_values(*codes, scale, chosen.candidates, chosen.floor)
    spread = value_range(chosen.candidates, score_range(scale, chosen.floor))
    low = lower_limit(values, *spread, delta, chosen.variance)
    point = values.mean().item()
    return Certificate(low, point, 1 - delta, chosen.candidates, len(values), chosen.floor)


class Chosen(NamedTuple):
    """The number of candidates, the score's floor, and the variance of the values of blocks."""

    candidates: int
    floor: float
    variance: float


def choose(query: Tensor, key: Tensor, scale: float, pairs: int, delta: float) -> Chosen:
    """The choice with the largest limit on these pairs. Their block values are repeated until there
    are as many of them as `pairs` pairs would give.
    """
    best, found = -math.inf, Chosen(2, -scale, 0.0)
    query, key = query[:MOST_CHOSEN_ON], key[:MOST_CHOSEN_ON]
    most = min(MOST_CANDIDATES, min(len(query), pairs) // LEAST_BLOCKS)
    if most < 2:
        few = min(len(query), pairs)
        raise Unmeasurable(f"certificate: {few} pairs are too few; it needs 16")
    for candidates in (2**e for e in range(1, 20) if 2**e <= most):
        for share in FLOORS:
            floor = scale * (2 * share - 1)
            values = block_values(query, key, scale, candidates, floor)
            repeated = values[torch.arange(pairs // candidates) % len(values)]
            variance = values.var().item()
            spread = value_range(candidates, score_range(scale, floor))
            if (low := lower_limit(repeated, *spread, delta, variance)) > best:
                best, found = low, Chosen(candidates, floor, variance)
    return found


def block_values(query: Tensor, key: Tensor, scale: float, candidates: int, floor: float) -> Tensor:
    """InfoNCE of each disjoint block of C pairs, mean over its anchors and both directions,
    float64 [n // C].
    """
    used = len(query) // candidates * candidates
    blocks = [side[:used].double().view(-1, candidates, side.shape[1]) for side in (query, key)]
    parts = []
    for q, k in zip(*(side.split(max(1, 2**22 // candidates**2)) for side in blocks), strict=True):
        scores = torch.logaddexp(q @ k.mT * scale, torch.tensor(floor, dtype=torch.float64))
        total = (scores.logsumexp(1) + scores.logsumexp(2)) / 2
        parts.append((scores.diagonal(dim1=1, dim2=2) - total).mean(1))
    return torch.cat(parts) + math.log(candidates)


def score_range(scale: float, floor: float) -> float:
    """R = log( (e^scale + e^floor) / (e^-scale + e^floor) ), the largest difference of scores."""
    top = max(scale, floor) + math.log1p(math.exp(-abs(scale - floor)))
    bottom = max(-scale, floor) + math.log1p(math.exp(-abs(-scale - floor)))
    return top - bottom


def value_range(candidates: int, spread: float) -> tuple[float, float]:
    """The least and the largest InfoNCE of C candidates for scores within a range R:

    log C - log(1 + (C - 1) e^R)  and  log C - log(1 + (C - 1) e^-R)
    """
    rest, whole = math.log(candidates - 1), math.log(candidates)
    low, high = rest + spread, rest - spread
    least = max(low, 0.0) + math.log1p(math.exp(-abs(low)))
    most = max(high, 0.0) + math.log1p(math.exp(-abs(high)))
    return whole - least, whole - most


def lower_limit(
    values: Tensor, low: float, high: float, delta: float, variance: float | None = None
) -> float:
    """A limit L with P(L <= mean) >= 1 - delta, for independent values [m] in [low, high] that have
    the same mean, by betting (Waudby-Smith & Ramdas 2024).

    A gambler who bets against "the mean is mu" has the capital K(mu) = prod (1 + bet_t (x_t - mu)),
    where bet_t depends only on values before t. If mu is the mean, K is a martingale, so the
    probability that it ever exceeds 1 / delta is at most delta (Ville's inequality). A mu whose K
    exceeds 1 / delta is refuted, and L is the largest refuted mu. `variance`, a guess from other
    values, sets the first bets. With a wrong guess, L is usually lower, but still valid.
    """
    x = ((values.double().cpu() - low) / (high - low)).clamp(0, 1)
    guess = 0.25 if variance is None else max(variance / (high - low) ** 2, 1e-6)
    count = torch.arange(1, len(x) + 1, dtype=torch.float64)
    mean = x.cumsum(0) / count
    seen = (GUESSED * guess + (x - mean).square().cumsum(0)) / (GUESSED + count)
    before = torch.cat([torch.tensor([guess], dtype=torch.float64), seen[:-1]])
    bets = (2 * math.log(1 / delta) / (len(x) * before)).sqrt()

    drawn, sizes = x.numpy(), bets.numpy()  # numpy is 3 times as fast for a few hundred values

    def refuted(mu: float) -> bool:
        gains = np.minimum(sizes, BET / mu) * (drawn - mu)
        return bool(np.log1p(gains).cumsum().max() >= math.log(1 / delta))

    least, most = 0.0, 1.0
    for _ in range(50):  # the capital falls as mu grows
        middle = (least + most) / 2
        least, most = (middle, most) if refuted(middle) else (least, middle)
    return low + least * (high - low)
