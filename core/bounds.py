"""Bounds on mutual information as pure functions, streaming over candidates. All in nats.

n = held-out pairs, C = candidates (the own key among them), D = code dimensions, L = latent dimensions.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 512  # anchors whose scores are held at a time


class Estimate(NamedTuple):
    """A mean with its standard error and 95% interval."""

    mean: float
    error: float
    low: float
    high: float


def interval(terms: Tensor) -> Estimate:
    """Mean of per-anchor terms [n] and its 95% normal interval.

    This is what resampling the anchors' terms with the candidates held fixed converges to. Resampling whole pairs would make
    duplicates that act as false negatives, and an interval that can exclude the point estimate.
    """
    terms = terms.double()
    mean, error = terms.mean().item(), (terms.std() / math.sqrt(len(terms))).item() if len(terms) > 1 else math.inf
    return Estimate(mean, error, mean - 1.96 * error, mean + 1.96 * error)


def infonce_terms(query: Tensor, key: Tensor, scale: float, candidates: list[int]) -> Tensor:
    """Per-anchor InfoNCE terms for several numbers of candidates, float64 [len(candidates), n].

        term_i(C) = log C + s(q_i, k_i) - log sum_{c} exp s(q_i, k_c),   s(q, k) = scale <q, k>

    The mean of a row is a lower bound on I(V1; V2) where the critic has not seen the pairs (van den Oord et al. 2018; Poole et al.
    2019): the candidates of anchor i are its own key and the keys of the next C - 1 pairs in cyclic order, other images and so independent
    draws. The pairs must be in random order. query, key [n, D]; candidates ascending, 2 <= C <= n.
    """
    n = len(query)
    counts = torch.tensor(candidates, device=query.device)
    if candidates != sorted(set(candidates)) or candidates[0] < 2 or candidates[-1] > n:
        raise ValueError(f"candidates: must ascend from 2 or more to at most {n}, got {candidates}")
    columns = torch.arange(n, device=query.device)
    parts = []
    for rows in columns.split(BLOCK):
        scores = (query[rows] @ key.T).double() * scale  # [b, n]
        scores = scores.gather(1, (rows[:, None] + columns) % n)  # own key first, then its followers
        edges = [0, *candidates]
        rings = [
            scores[:, a:b].logsumexp(1) for a, b in zip(edges, edges[1:], strict=False)
        ]  # candidate sets are nested: one pass serves every C
        sums = torch.stack(rings, 1).logcumsumexp(1)
        parts.append(counts.double().log() + scores[:, :1] - sums)
    return torch.cat(parts).T


def refit_scale(query: Tensor, key: Tensor, start: float) -> float:
    """The scale that maximises the mean InfoNCE term on a calibration split, by golden-section search over its logarithm.

    Choosing it on the pairs that are then reported would make the value no bound.
    """
    golden = (math.sqrt(5) - 1) / 2
    n = min(len(query), 2048)
    low, high = math.log(start) - 3, math.log(start) + 3

    def value(log_scale: float) -> float:
        return infonce_terms(query[:n], key[:n], math.exp(log_scale), [n]).mean().item()

    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = value(left), value(right)
    for _ in range(16):
        if at_left > at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = value(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = value(right)
    return math.exp((low + high) / 2)


def cosine_cap(scale: float, candidates: int) -> float:
    """No critic s = scale <q, k> with unit codes passes log C - log(1 + (C - 1) exp(-2 scale))."""
    return math.log(candidates) - math.log1p((candidates - 1) * math.exp(-2 * scale))


def verdict(sweep: list[tuple[int, Estimate]], images: int, calibration: float | None = None, cap: float = math.inf) -> str:
    """What the last number of a sweep over C says: critic-limited, saturated, K-limited or converged.

    `calibration` is the value at the last C on the split that chose the critic, `cap` what the critic can reach at most.
    """
    candidates, last = sweep[-1]
    ceiling = min(math.log(candidates), math.log(images), cap)
    if last.mean <= 0 or (calibration is not None and calibration - last.mean > max(0.1, 0.05 * abs(last.mean), 4 * last.error)):
        return "critic-limited"
    if last.mean > 0.95 * ceiling:
        return "saturated"
    before = next(((c, e) for c, e in reversed(sweep[:-1]) if c <= candidates / 2), None)
    slope = (last.mean - before[1].mean) / math.log(candidates / before[0]) if before else math.inf
    return "K-limited" if slope > 0.05 else "converged"


def sandwich_terms(mean: Tensor, sigma: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Per-image terms of the lower and the upper bound on I_q(X; Z) with a tractable q(z|x), float64 [n] each.

        lower_i = log q(z_i|x_i) - log (1/n)     sum_j       q(z_i|x_j)        mean <= min(I_q, log n)
        upper_i = log q(z_i|x_i) - log (1/(n-1)) sum_{j!=i}  q(z_i|x_j)        mean >= I_q

    in expectation (Poole et al. 2019, eqs. 5 and 13), for diagonal Gaussians with mean, sigma [n, L] and samples z [n, L]. The quadratic is
    expanded into two matrix products in float64, so no [n, n, L] is held.
    """
    mean, sigma, z = mean.double(), sigma.double(), z.double()
    n, precision = len(z), sigma.pow(-2)
    constant = -0.5 * (mean**2 * precision).sum(1) - sigma.log().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)
    weights = mean * precision
    lower, upper = [], []
    for rows in torch.arange(n, device=z.device).split(BLOCK):
        log_q = -0.5 * z[rows] ** 2 @ precision.T + z[rows] @ weights.T + constant  # [b, n]
        own = log_q.gather(1, rows[:, None])
        lower.append(own[:, 0] - log_q.logsumexp(1) + math.log(n))
        others = log_q.scatter(1, rows[:, None], -math.inf)
        upper.append(own[:, 0] - others.logsumexp(1) + math.log(n - 1))
    return torch.cat(lower), torch.cat(upper)
