"""Bounds on mutual information, as pure functions of scores, in nats.

A lower bound holds for a critic f that was fixed before the pairs were drawn. n = pairs, m =
negatives of each, C = m + 1 candidates. A function whose number is no bound says so. Two numbers of
training are not bounds, and have no function here: log(2N - 1) minus NT-Xent, and log(K + 1) minus
the loss of a queue.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from core.errors import Unmeasurable
from core.information.scores import Scores

BLOCK = 512  # anchors whose scores are in memory at a time


class Bound(NamedTuple):
    """The mean of `terms` [n] is the estimate; the spread of `influence` [n] gives its error.

    The influence of a pair is its contribution as an anchor plus its contribution as a candidate of
    other anchors, if it is one. (This is the first-order projection of a statistic whose anchors
    share candidates.)
    """

    terms: Tensor
    influence: Tensor


class Estimate(NamedTuple):
    """A mean with its standard error and 95% interval."""

    mean: float
    error: float
    low: float
    high: float


def interval(terms: Tensor, influence: Tensor | None = None) -> Estimate:
    """The mean of terms [n] and its 95% normal interval, from the spread of terms or influence.

    A bootstrap is not used: resampled pairs contain duplicates, which act as false negatives, so
    the interval could exclude the point estimate. With the spread of the terms alone, the interval
    would ignore that anchors share their candidates.
    """
    spread = (terms if influence is None else influence).double()
    mean = terms.double().mean().item()
    error = (spread.std() / math.sqrt(len(spread))).item() if len(spread) > 1 else math.inf
    return Estimate(mean, error, mean - 1.96 * error, mean + 1.96 * error)


def infonce(scores: Scores) -> Bound:
    """Lower bound:  E[ f(x, y) - log (1/C) sum_c exp f(x, y_c) ],  own pair among the candidates.

    It is at most log C, is biased low when I is near log C, and has a variance of order 1/n (van
    den Oord et al. 2018; Poole et al. 2019, eq. 10).
    """
    total = torch.logaddexp(scores.own, scores.others)
    terms = scores.own - total + math.log(scores.negatives + 1)
    return Bound(terms, terms - scores.received(-total).exp() if scores.paired else terms)


def infonce_symmetric(scores: Scores) -> Bound:
    """Lower bound: the mean of InfoNCE over both directions. Each direction is a lower bound, but
    the larger of the two is not.
    """
    forth, back = infonce(scores), infonce(scores.transposed())
    return Bound(
        (forth.terms + back.terms) / 2,
        (forth.influence + back.influence) / 2,
    )


def alpha_bound(scores: Scores, alpha: float) -> Bound:
    """Lower bound that can exceed log C (Poole et al. 2019, eq. 14, with baseline q(y) = 1):

        1 + E[ log e^f(x, y) / (alpha M + (1 - alpha)) ] - E[ M' / (alpha M' + (1 - alpha)) ]

    M is the mean of e^f over the own pair and m - 1 negatives, M' over m negatives, so both are
    means over m draws. The limit alpha = 1 is InfoNCE, the limit alpha = 0 is NWJ. The bound is at
    most 1 + log(m / alpha); a smaller alpha means less bias and more variance. f should be near
    log p(y|x) / p(y), because an additive constant matters here.
    """
    mixed, mixed_second, terms = _interpolated(scores, alpha)
    if not scores.paired:
        return Bound(terms, terms)
    # the derivative of both expectations with respect to the weight of one key in every M and M'
    first = alpha * (scores.received(-mixed) - math.log(scores.negatives)).exp()
    second = (1 - alpha) * (scores.received(-2 * mixed_second) - math.log(scores.negatives)).exp()
    return Bound(terms, terms - first - second)


def best_alpha(calibration: list[Scores], alphas: tuple[float, ...]) -> float:
    """The alpha with the largest bound on calibration pairs. (If it were chosen on the reported
    pairs, the result would not be a bound.) Raises `Unmeasurable` if a bound is NaN.
    """
    found = [
        sum(_interpolated(scores, alpha)[2].mean().item() for scores in calibration)
        for alpha in alphas
    ]
    if any(map(math.isnan, found)):
        raise Unmeasurable("alpha: its bound is NaN on calibration pairs, so none can be chosen")
    return alphas[found.index(max(found))]


def _interpolated(scores: Scores, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """log(alpha M + 1 - alpha) of both expectations, and the bound's terms."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: must be between 0 and 1, got {alpha}")
    count = math.log(scores.negatives)
    first, second = torch.logaddexp(scores.own, scores.rest) - count, scores.others - count
    rest = torch.tensor(math.log1p(-alpha), dtype=torch.float64, device=first.device)
    mixed, mixed_second = (
        torch.logaddexp(log_mean + math.log(alpha), rest) for log_mean in (first, second)
    )
    return mixed, mixed_second, 1 + scores.own - mixed - (second - mixed_second).exp()


def nwj(scores: Scores) -> Bound:
    """Lower bound:  1 + E[f] - E_p(x)p(y)[e^f],  tight at f = log p(y|x) / p(y).

    The value from a sample is unbiased, but its variance grows as e^I (Nguyen, Wainwright, Jordan
    2010, whose critic is f + 1).
    """
    negative = (scores.others - math.log(scores.negatives)).exp()
    influence = scores.own - negative
    if scores.paired:
        received = scores.received(torch.zeros_like(scores.own))
        influence = influence - (received - math.log(scores.negatives)).exp()
    return Bound(1 + scores.own - negative, influence)


def unseen(scores: list[Scores], alphas: list[float] | None = None) -> float:
    """The part of the mean E_p(x)p(y)[e^f] that a sample lacks, if f = log p(y|x) / p(y).

    `scores`: the scores of parts of the pairs. `alphas`: one alpha for each part of the pairs. If
    they are given, the result is not for this mean, but for the second mean of `alpha_bound`.

    For such a critic, E_p(x)p(y)[e^f 1(f > t)] = P(f(x, y) > t), and the whole mean is 1. If t is
    the largest score of a negative, the sample mean lacks this part, and `nwj` is too high by it.
    The result estimates it by the share of own pairs that score above t. For 1,000 pairs of
    100-dimensional Gaussians with I = 8 nats, it is 0.2; intervals that ignored it lay above the
    truth for 17 % of 60 samples.

    A large score f adds e^f / m to the mean of NWJ, but at most 1 / alpha to the second mean of
    `alpha_bound`. The ratio of the two is m / (alpha e^f). So with `alphas`, an own pair above t
    has the weight min(1, m / (alpha e^f)) instead of 1.
    """
    most, counted = max(part.largest() for part in scores), []
    for number, part in enumerate(scores):
        above = part.own.gt(most).double()
        if alphas:
            above *= (math.log(part.negatives / alphas[number]) - part.own).clamp(max=0).exp()
        counted.append(above)
    return torch.cat(counted).mean().item()


def js(scores: Scores) -> Bound:
    """Lower bound: NWJ with a critic V that was trained on the Jensen-Shannon objective.

    V tends to log p(y|x) / p(y). The common form of NWJ, E[g] - E[e^(g - 1)], is tight at
    g = V + 1. With g = V = log p(y|x) / p(y), it is 1/e = 0.37 nats too low, for every I. `nwj`
    contains the shift by 1, so it takes V
    (Poole et al. 2019, section 2.3).
    """
    return nwj(scores)


def infonce_objective(scores: Tensor) -> Tensor:
    """The training objective of an InfoNCE critic: the mean of InfoNCE over both directions, in
    nats. On pairs that the critic has not seen, it is a lower bound. `scores`: f [..., n, n];
    returns [...].
    """
    own = scores.diagonal(dim1=-2, dim2=-1)
    total = (scores.logsumexp(-1) + scores.logsumexp(-2)) / 2
    return (own - total).mean(-1) + math.log(scores.shape[-1])


def anchor_objective(scores: Tensor, weight: float = 1.0) -> Tensor:
    """The training objective of InfoNCE with an anchor class, for matrices f [..., n, n]. It is not
    a bound:

        E[ f(x, y) - log(w + M) ] - w E[ log(w + M') ]

    M is the mean of e^f over the own pair and the negatives, M' is the mean over the negatives
    alone, and w is the weight of the class "no candidate belongs to x". The best f is
    log p(y|x) / p(y), without the function of x that InfoNCE leaves undetermined, so its mean over
    pairs estimates I (InfoNCE-anchor, Ryu et al. 2025). The objective is the mean of both
    directions.
    """
    n, start = scores.shape[-1], math.log(weight)
    own, parts = scores.diagonal(dim1=-2, dim2=-1), []
    negatives = scores.masked_fill(torch.eye(n, dtype=torch.bool, device=scores.device), -math.inf)
    for dim in (-1, -2):
        whole, rest = (
            scores.logsumexp(dim) - math.log(n),
            negatives.logsumexp(dim) - math.log(n - 1),
        )
        floor = torch.full_like(whole, start)
        parts.append(torch.logaddexp(whole, floor) + weight * torch.logaddexp(rest, floor))
    return (own - (parts[0] + parts[1]) / 2).mean(-1)


def js_objective(scores: Tensor) -> Tensor:
    """The training objective of a JS critic with matrices V [..., n, n]. It is not a bound:

    -E[softplus(-V)] - E_p(x)p(y)[softplus(V)]    (Nowozin et al. 2016)
    """
    n = scores.shape[-1]
    own = scores.diagonal(dim1=-2, dim2=-1)
    softplus = torch.nn.functional.softplus
    negatives = softplus(scores).sum((-1, -2)) - softplus(own).sum(-1)
    return -softplus(-own).mean(-1) - negatives / (n * (n - 1))


def dv(scores: Scores) -> Bound:
    """Donsker-Varadhan 1983:  E[f] - log E_p(x)p(y)[e^f].

    It is a lower bound if the expectations are exact. On a sample, the logarithm of a mean is
    biased low, so the value is biased *high*, by about half the relative variance of the mean. This
    variance is of order e^I.
    """
    log_mean = scores.others.logsumexp(0) - math.log(len(scores.own) * scores.negatives)
    share = scores.others - math.log(scores.negatives) - log_mean
    influence = scores.own - share.exp()
    if scores.paired:
        received = scores.received(torch.zeros_like(scores.own))
        influence = influence - (received - math.log(scores.negatives) - log_mean).exp()
    return Bound(scores.own - log_mean, influence)


def log_ratio(scores: Scores) -> Bound:
    """Not a bound: the mean score of the own pairs. It estimates I if the scores estimate
    log p(y|x) / p(y) (`anchor_objective`), and is too high if the critic is overconfident.
    """
    return Bound(scores.own, scores.own)


def smile(scores: Scores, limit: float = 5.0) -> Bound:
    """Not a bound (Song & Ermon 2020):  DV with f clipped to [-limit, limit] in the second term.

    Its variance is below DV's, but the value can be far above I (18 nats were observed for I = 10).
    """
    return dv(scores.clipped(limit))


def leave_one_out(log_density: Scores) -> Bound:
    """Upper bound on I_q(X; Z) for a tractable q:

        E[ log q(z_i|x_i) - log (1/(C-1)) sum_{j != i} q(z_i|x_j) ]

    The scores are log q(z_i|x_j), such as `core.information.scores.gaussian`. The bound is biased
    high, and its bias grows with the rate (Poole et al. 2019, eq. 13).
    """
    terms = log_density.own - log_density.others + math.log(log_density.negatives)
    return Bound(terms, terms)


def sandwich(log_density: Scores) -> tuple[Bound, Bound]:
    """A lower bound <= min(I_q, log C) and an upper bound >= I_q from scores log q(z_i|x_j) (Poole
    et al. 2019, section 2.5). The lower bound is InfoNCE with the true log density as its critic.
    """
    return infonce(log_density), leave_one_out(log_density)


def club(log_density: Scores) -> Bound:
    """Upper bound if the scores are the true log p(y_j|x_i) (Cheng et al. 2020):

        E[log p(y|x)] - E_p(x)p(y)[log p(y|x)]

    With a fitted conditional it is not a bound. By Jensen's inequality, it is never tighter than
    `leave_one_out`.
    """
    if not log_density.paired:
        raise ValueError("club: needs paired scores")
    terms = log_density.own - log_density.mean()
    return Bound(terms, terms - log_density.transposed().mean())


def infonce_terms(query: Tensor, key: Tensor, scale: float, candidates: list[int]) -> Tensor:
    """`infonce` for many numbers of candidates in one pass, float64 [len(candidates), n].

        term_i(C) = log C + s(q_i, k_i) - log sum_c exp s(q_i, k_c),   s(q, k) = scale <q, k>

    The candidates of anchor i are its own key and the keys of the next C - 1 pairs in cyclic order,
    so the pairs must be in random order. query, key [n, D]; candidates ascending, 2 <= C <= n.
    """
    return torch.cat([block.terms for block in _blocks(query, key, scale, candidates)], 1)


def infonce_sweep(query: Tensor, key: Tensor, scale: float, candidates: list[int]) -> list[Bound]:
    """`infonce_terms` with their influence, as a bound for each number of candidates.

    Pair j has the share exp(s(q_i, k_j)) / sum_c exp s(q_i, k_c) of anchor i, if k_j is a candidate
    of i. The influence of j is its term minus the sum of its shares of all other anchors.
    """
    n, parts = len(query), []
    received = torch.zeros(len(candidates), 2 * n, dtype=torch.float64, device=query.device)
    for block in _blocks(query, key, scale, candidates):
        parts.append(block.terms)
        _give_shares(block, candidates, received[:, block.first :])
    terms, received = torch.cat(parts, 1), received[:, :n] + received[:, n:]
    return [Bound(row, row - taken) for row, taken in zip(terms, received, strict=True)]


class _Block(NamedTuple):
    """The anchors `first`, `first + 1`, ... with rings of candidates. If C_r is the r-th number
    of candidates, ring r holds the candidates that are among the first C_r, but not among the first
    C_(r-1). Column c is the key c places after `first`, so the candidates of row i begin at column
    i.
    """

    first: int
    terms: Tensor  # float64 [rings, b]
    exps: Tensor  # float64 [b, b + n], exp(score - peak of the ring)
    peaks: Tensor  # float64 [b, rings], the largest score up to this ring
    sums: Tensor  # float64 [b, rings], log sum exp of all scores up to this ring


def _blocks(query: Tensor, key: Tensor, scale: float, candidates: list[int]) -> Iterator[_Block]:
    """The scores of blocks of anchors. The sets of candidates are nested, so a score serves
    every C that includes it, and its exponential is computed once.
    """
    n = len(query)
    if n < 2:
        raise Unmeasurable(f"InfoNCE: needs 2 pairs or more, got {n}")
    if candidates != sorted(set(candidates)) or candidates[0] < 2 or candidates[-1] > n:
        raise ValueError(f"candidates: must ascend from 2 or more to at most {n}, got {candidates}")
    counts = torch.tensor(candidates, device=query.device).double()
    around = torch.cat([key, key])
    for first in range(0, n, BLOCK):
        anchors = query[first : first + BLOCK]
        b = len(anchors)
        keys = torch.cat([around[first : first + n], around[first : first + b]])
        scores = (anchors @ keys.T).double().mul_(scale)
        own = scores.diagonal().clone()
        peaks, sums, peak = [], [], own
        for start, stop in itertools.pairwise((0, *candidates)):
            # row i of the ring begins at column start + i
            ring = scores.as_strided((b, stop - start), (b + n + 1, 1), start)
            peak = torch.maximum(peak, ring.amax(1))
            peaks.append(peak)
            sums.append(ring.sub_(peak[:, None]).exp_().sum(1).log() + peak)
        total = torch.stack(sums, 1).logcumsumexp(1)
        terms = (counts.log() + own[:, None] - total).T
        yield _Block(first, terms, scores, torch.stack(peaks, 1), total)


def _give_shares(block: _Block, candidates: list[int], received: Tensor) -> None:
    """Add the anchors' shares of softmax to `received` [rings, columns], for each number of
    candidates; an anchor's own key is left out.
    """
    b = len(block.exps)
    for number, (start, stop) in enumerate(itertools.pairwise((1, *candidates))):
        # a ring belongs to its own number of candidates and to all larger numbers
        weight = (block.peaks[:, number, None] - block.sums[:, number:]).exp_().T
        taken, ring = received[number:], block.exps[:, start : stop + b]
        if stop - start <= b:
            taken[:, start : stop + b] += weight @ ring.triu().tril_(stop - start - 1)
            continue
        taken[:, start : start + b] += weight @ ring[:, :b].triu()
        taken[:, start + b : stop] += weight @ ring[:, b:-b]
        taken[:, stop : stop + b] += weight @ ring[:, -b:].tril(-1)
