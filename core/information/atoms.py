"""Entropy, divergence and information of known discrete distributions, exactly.

    H(p) = -sum p log p,   D(p || q) = sum p log(p / q),   I(X; Y) = D(p(x, y) || p(x) p(y))

Probabilities are along the last axis and sum to 1; a table of a joint distribution is [..., X, Y].
All functions accept leading axes. They return nats by default, another unit with `base` (2: bits).
They raise `ValueError` for values that are not probabilities. 0 log 0 is 0. Source of all formulas:
Cover & Thomas, Elements of Information Theory, chapter 2. `core.information.from_samples` estimates
these numbers from samples; `core.information.gaussians` has them for Gaussians.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import rel_entr, xlogy

from core.information.units import in_base

Array = NDArray[np.float64]

SUM = 1e-6  # largest distance of a sum from 1, so that probabilities in float32 are accepted


def entropy(p: ArrayLike, base: float = math.e) -> Any:
    """H(p) = -sum p log p, for p [..., K].

    >>> entropy([0.5, 0.5], base=2)
    1.0
    >>> round(entropy([0.9, 0.1]), 4)
    0.3251
    """
    p = _probabilities(p, "p", 1)
    return _out(0.0 - xlogy(p, p).sum(-1), base)


def cross_entropy(p: ArrayLike, q: ArrayLike, base: float = math.e) -> Any:
    """H(p, q) = -sum p log q = H(p) + D(p || q): the mean code length of draws from p in a code
    made for q. Infinite if q is 0 where p is not.

    >>> cross_entropy([0.5, 0.5], [0.75, 0.25], base=2) > entropy([0.5, 0.5], base=2)
    True
    """
    p, q = _probabilities(p, "p", 1), _probabilities(q, "q", 1)
    return _out(0.0 - xlogy(*_together(p, q)).sum(-1), base)


def kl(p: ArrayLike, q: ArrayLike, base: float = math.e) -> Any:
    """D(p || q) = sum p log(p / q) >= 0, for p and q [..., K]. It is infinite, never NaN, if q is 0
    where p is not (p is not absolutely continuous with respect to q).

    >>> round(kl([0.5, 0.5], [0.9, 0.1]), 4), round(kl([0.9, 0.1], [0.5, 0.5]), 4)
    (0.5108, 0.3681)
    >>> kl([0.5, 0.5], [1, 0])
    inf
    """
    p, q = _probabilities(p, "p", 1), _probabilities(q, "q", 1)
    return _out(rel_entr(*_together(p, q)).sum(-1), base)


def conditional_kl(p: ArrayLike, q: ArrayLike, base: float = math.e) -> Any:
    """D(p(y|x) || q(y|x)) = E_p(x) D(p(.|x) || q(.|x)), of joint tables [..., X, Y].

    Chain rule: D(p(x, y) || q(x, y)) = D(p(x) || q(x)) + D(p(y|x) || q(y|x)). So the divergence of
    a marginal never exceeds that of the joint. If q gives a row probability 0,
    q(y|x) is not defined there; the result is infinite if p gives this row more than 0.
    """
    p, q = _together(_probabilities(p, "p", 2), _probabilities(q, "q", 2))
    weight, other = p.sum(-1, keepdims=True), q.sum(-1, keepdims=True)
    return _out(_mean_kl(weight, _given(p, weight), _given(q, other), 2), base)


def joint_entropy(joint: ArrayLike, base: float = math.e) -> Any:
    """H(X, Y) of a joint table [..., X, Y]."""
    joint = _probabilities(joint, "joint", 2)
    return _out(0.0 - xlogy(joint, joint).sum((-2, -1)), base)


def conditional_entropy(joint: ArrayLike, base: float = math.e) -> Any:
    """H(Y|X) = -sum p(x, y) log p(y|x), of a joint table [..., X, Y] (rows x, columns y).

    >>> conditional_entropy([[0.5, 0], [0, 0.5]])  # x determines y
    0.0
    """
    joint = _probabilities(joint, "joint", 2)
    rows = np.broadcast_to(joint.sum(-1, keepdims=True), joint.shape)
    return _out(0.0 - rel_entr(joint, rows).sum((-2, -1)), base)


def mutual_information(joint: ArrayLike, base: float = math.e) -> Any:
    """I(X; Y) = D(p(x, y) || p(x) p(y)) = H(Y) - H(Y|X), of a joint table [..., X, Y].

    >>> mutual_information([[0.25, 0.25], [0.25, 0.25]])
    0.0
    >>> mutual_information([[0.5, 0], [0, 0.5]], base=2)
    1.0
    """
    joint = _probabilities(joint, "joint", 2)
    x, y = joint.sum(-1, keepdims=True), joint.sum(-2, keepdims=True)
    found = _mean_kl(x, _given(joint, x), y, 2)
    return _out(np.maximum(found, 0.0), base)  # a rounding error may lie below 0


def conditional_mutual_information(joint: ArrayLike, base: float = math.e) -> Any:
    """I(X; Y | Z) = sum_z p(z) I(X; Y | Z = z), of a joint table [..., X, Y, Z].

    Chain rule: I(X, Z; Y) = I(Z; Y) + I(X; Y | Z).
    """
    joint = _probabilities(joint, "joint", 3)
    x, y, z = (joint.sum(axes, keepdims=True) for axes in (-2, -3, (-3, -2)))
    found = _mean_kl(x, _given(joint, x), _given(y, z), 3)
    return _out(np.maximum(found, 0.0), base)


def jensen_shannon(p: ArrayLike, q: ArrayLike, weight: float = 0.5, base: float = math.e) -> Any:
    """JS(p, q) = w D(p || m) + (1 - w) D(q || m), m = w p + (1 - w) q (Lin 1991).

    A coin chooses p with probability w, else q. The divergence is the information that one draw
    from the chosen distribution gives about the coin, so it is at most the entropy of the coin:
    log 2 for w = 1/2. `ValueError` if w is outside of (0, 1).

    >>> jensen_shannon([1, 0], [0, 1], base=2)
    1.0
    """
    if not 0 < weight < 1:
        raise ValueError(f"weight: must be between 0 and 1, got {weight}")
    p, q = _together(_probabilities(p, "p", 1), _probabilities(q, "q", 1))
    mixed = weight * p + (1 - weight) * q
    found = weight * rel_entr(p, mixed) + (1 - weight) * rel_entr(q, mixed)
    return _out(np.maximum(found.sum(-1), 0.0), base)


def weight_of_evidence(p: ArrayLike, q: ArrayLike, base: float = math.e) -> Any:
    """log p(x) / q(x) of every outcome x, [..., K]: how far one observation of x moves the log-odds
    of p against q (Good 1950).

        log posterior odds = log prior odds + weight of evidence,   E_p[weight] = D(p || q)

    +inf where only p is possible, -inf where only q is, and NaN where neither is: such an outcome
    is never observed.

    >>> weight_of_evidence([0.8, 0.2], [0.2, 0.8], base=2).tolist()
    [2.0, -2.0]
    """
    p, q = _together(_probabilities(p, "p", 1), _probabilities(q, "q", 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return in_base(np.log(p) - np.log(q), base)


def _probabilities(values: ArrayLike, name: str, axes: int) -> Array:
    """float64 [..., K] that is a distribution over its last axes."""
    p = np.asarray(values, dtype=np.float64)
    if p.ndim < axes or not p.size:
        kind = ("a vector", "a table [X, Y]", "a table [X, Y, Z]")[axes - 1]
        raise ValueError(f"{name}: must be {kind} of probabilities, got the shape {list(p.shape)}")
    if not np.isfinite(p).all() or p.min() < 0:
        raise ValueError(f"{name}: probabilities must be finite and 0 or more")
    total = p.sum(tuple(range(-axes, 0)))
    if (wrong := np.abs(total - 1)).max() > SUM:
        found = float(np.ravel(total)[int(wrong.argmax())])
        raise ValueError(f"{name}: probabilities must sum to 1, but their sum is {found:.6g}")
    return p


def _together(p: Array, q: Array) -> tuple[Array, Array]:
    """p and q, if they have the same outcomes. Leading axes are broadcast, but never the last."""
    if p.shape[-1] != q.shape[-1]:
        raise ValueError(
            f"p has {p.shape[-1]} outcomes and q {q.shape[-1]}; give both for the same outcomes"
        )
    made: Any = np.broadcast_arrays(p, q)
    return made[0], made[1]


def _given(joint: Array, condition: Array) -> Array:
    """joint / condition, and 0 where the condition never holds."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(condition > 0, joint / condition, 0.0)


def _mean_kl(weight: Array, p: Array, q: Array, axes: int) -> Any:
    """The sum of weight * p log(p / q) over the last axes, 0 where the weight is 0.

    p and q are conditional distributions. A product of two marginals would be 0 in floating point
    for outcomes that are possible but very rare, and then the result would be infinite.
    """
    with np.errstate(invalid="ignore"):
        terms = np.where(weight > 0, weight * rel_entr(p, q), 0.0)
    return terms.sum(tuple(range(-axes, 0)))


def _out(nats: Any, base: float) -> Any:
    """A float for one distribution, else an array with the leading axes."""
    found = in_base(nats, base)
    return float(found) if np.ndim(found) == 0 else found
