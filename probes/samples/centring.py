"""Additive terms of a critic, so that it estimates a log density ratio. InfoNCE does not determine
them, but bounds without a normalisation (NWJ, alpha) need them.

n = pairs of the fold that chose the critic's training step, P = code dimensions.
"""

import math

import torch
from torch import Tensor

Codes = tuple[Tensor, Tensor]
# The limit t is the score of a negative with this rank, counted from the largest score. Above t, a
# sample has too few scores for a mean.
RARE = 10
MARGIN = 0.005  # nats by which a term for each x has to be better than a constant


def centring(query: Tensor, key: Tensor) -> float:
    """c such that f - c estimates log p(y|x) / p(y), from codes [n, P] of the fold that chose the
    step:

        E_p(x)p(y)[e^f 1(f <= t)] = e^c P(f(x, y) <= t)

    t is the tenth largest score of a negative. (If the information is large, a sample of few
    pairs gives too small a mean of e^f; without the limit t, c would be too small.)
    """
    own, negatives = _scores(query, key)
    most, count = _limit(negatives), len(own) * (len(own) - 1)
    share = max((own <= most).double().mean().item(), 1 / len(own))
    rows = negatives.masked_fill_(negatives > most, -math.inf).logsumexp(1)
    return rows.double().logsumexp(0).item() - math.log(count) - math.log(share)


def centred(chosen: Codes, scored: Codes) -> tuple[Codes, Codes]:
    """Codes of f(x, y) - a(x) - c, [n, P + 1] each: of the pairs that chose the critic's step, and
    of the pairs that it scores.

    c is that of `centring`. a(x) is the log mean of e^f over the keys of `chosen`, or zero if this
    is not better. A critic of few contents needs a(x). Only pairs of one content have a notable
    score, so InfoNCE does not change if a constant is added to all scores of one content. The keys
    of `chosen` are independent of the pairs that are scored, so f - a - c is a critic like any
    other, and its bounds hold.
    """
    terms = torch.zeros(len(chosen[0])), torch.zeros(len(scored[0]))
    if _differ(*chosen):
        most = _limit(_scores(*chosen)[1])
        terms = _of_rows(*chosen, most, paired=True), _of_rows(scored[0], chosen[1], most)
    constant = centring(*_minus(chosen, terms[0]))
    return _minus(chosen, terms[0] + constant), _minus(scored, terms[1] + constant)


def _differ(query: Tensor, key: Tensor) -> bool:
    """Whether a term for each x makes the critic better: computed from the keys of one half of the
    pairs, it is tested on the other half.
    """
    half, gains = len(query) // 2, []
    for here, there in ((slice(half), slice(half, None)), (slice(half, None), slice(half))):
        own, negatives = _scores(query[here], key[here])
        terms = _of_rows(query[here], key[there], _limit(negatives))
        moved = _value(own - terms, negatives - terms[:, None])
        gains.append(moved - _value(own, negatives))
    return sum(gains) / 2 > MARGIN


def _value(own: Tensor, negatives: Tensor) -> float:
    """E_p(x,y)[f] - log E_p(x)p(y)[e^f], with scores of negatives limited to t."""
    rows = negatives.clamp(max=_limit(negatives)).logsumexp(1).double()
    return (own.double().mean() - rows.logsumexp(0)).item() + math.log(negatives.isfinite().sum())


def _scores(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """f of the pairs, [n], and of all negatives, [n, n], with -inf on the diagonal."""
    scored = query @ key.T
    own = scored.diagonal().clone()
    return own, scored.fill_diagonal_(-math.inf)


def _limit(negatives: Tensor) -> Tensor:
    """t, the score of a negative with rank `RARE`."""
    count = len(negatives) * (len(negatives) - 1)
    return negatives.flatten().topk(min(RARE, count)).values[-1]


def _of_rows(query: Tensor, key: Tensor, most: Tensor, paired: bool = False) -> Tensor:
    """The log mean of e^f over the keys, for each query, [n]. Scores are limited to `most`.
    `paired`: key i is the own key of query i, so it is left out.
    """
    scored = (query @ key.T).clamp(max=most)
    if paired:
        scored = scored.fill_diagonal_(-math.inf)
    return scored.logsumexp(1) - math.log(len(key) - paired)


def _minus(codes: Codes, term: Tensor) -> Codes:
    """Codes of f(x, y) - term(x), for a term of each x, [n]."""
    q, k = codes
    one = torch.ones_like(k[:, :1])
    return torch.cat([q, -term[:, None].to(q.dtype)], 1), torch.cat([k, one], 1)
