"""Description length of data with a model: two-part codes, BIC, and normalised maximum likelihood.

    NML:  -log p(x | best for x) + log C,   C = sum over all data x' of p(x' | best for x')

log C, the parametric complexity, is the cost of the parameters. No code has a smaller worst-case
regret (Shtarkov 1987). n = samples, K = outcomes, k = real parameters. In nats.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, xlogy

Array = NDArray[np.float64]
MOST = 2**27  # samples; the sum over h takes n float64s


def multinomial_complexity(n: int, outcomes: int) -> float:
    """log C(n, K) of a multinomial with K outcomes, exactly, in O(n + K) steps.

        C(n, 1) = 1,   C(n, 2) = sum_h (n choose h) (h/n)^h ((n-h)/n)^(n-h),
        C(n, K + 2) = C(n, K + 1) + n/K C(n, K)         (Kontkanen & Myllymaki 2007)

    `ValueError` if n is below 0 or above 2^27, if K is below 1, or if n or K is not a whole number.

    >>> import math
    >>> round(math.exp(multinomial_complexity(2, 2)), 6)  # 1 + 1/2 + 1
    2.5
    """
    if not (math.isfinite(n) and math.isfinite(outcomes)):
        raise ValueError(f"n, outcomes: must be finite, got {n}, {outcomes}")
    if n != int(n) or outcomes != int(outcomes) or n > MOST:
        raise ValueError(
            f"n, outcomes: must be whole numbers, n at most {MOST:,}, got {n}, {outcomes}"
        )
    if n < 0 or outcomes < 1:
        raise ValueError(
            f"n, outcomes: need 0 samples or more and 1 outcome or more, got {n}, {outcomes}"
        )
    if n == 0 or outcomes == 1:
        return 0.0
    h = np.arange(n + 1, dtype=np.float64)
    terms = gammaln(n + 1) - gammaln(h + 1) - gammaln(n - h + 1)
    terms += xlogy(h, h / n) + xlogy(n - h, (n - h) / n)
    before, now = 0.0, float(np.logaddexp.reduce(terms))  # log C of 1 and of 2 outcomes
    for k in range(1, outcomes - 1):
        before, now = now, float(np.logaddexp(now, before + math.log(n / k)))
    return now


def multinomial_length(counts: ArrayLike) -> float:
    """NML code length of a sequence whose outcomes occur `counts` [K] times:

        n H(counts / n) + log C(n, K)

    Outcomes that did not occur are also counted, because K is fixed before the data are seen.

    >>> round(multinomial_length([1, 1]), 4)  # 2 log 2 + log 2.5
    2.3026
    """
    found = np.asarray(counts, dtype=np.float64)
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all() or found.min() < 0:
        raise ValueError("counts: must be a vector of numbers of 0 or more")
    if (found != np.floor(found)).any():
        raise ValueError("counts: must be whole numbers")
    n = int(found.sum())
    fit = -float(xlogy(found, found / max(n, 1)).sum())
    return fit + multinomial_complexity(n, len(found))


def bic(fit: float, parameters: int, n: int) -> float:
    """Schwarz's criterion (1978) as a code length, -log p(x | best) + k/2 log n, in nats. (The BIC
    of statistics packages is twice this.) `fit` is -log p(x | best parameters).

    >>> round(bic(100.0, 2, 50), 3)
    103.912
    """
    if n < 1 or parameters < 0:
        raise ValueError(
            f"n, parameters: need 1 sample or more and 0 parameters or more, got {n}, {parameters}"
        )
    return fit + 0.5 * parameters * math.log(n)


def fisher_length(fit: float, parameters: int, n: int, log_volume: float) -> float:
    """Rissanen's approximation of NML (1996), which adds to BIC the terms that do not grow with n:

        -log p(x | best) + k/2 log(n / 2 pi) + log integral sqrt det I(theta) dtheta + o(1)

    I is the Fisher information of one sample; `log_volume` is the log of its integral, which must
    be finite, as `multinomial_volume` is.
    """
    return bic(fit, parameters, n) - 0.5 * parameters * math.log(2 * math.pi) + log_volume


def multinomial_volume(outcomes: int) -> float:
    """log integral sqrt det I = log( pi^(K/2) / Gamma(K/2) ), of a multinomial with K outcomes."""
    return 0.5 * outcomes * math.log(math.pi) - math.lgamma(outcomes / 2)


def two_part_length(fit: float, parameters: int, precision: float, span: float) -> float:
    """The length of a two-part code. It holds each parameter, rounded to a `precision` in a range
    of length `span`, and then the data: -log p(x | rounded parameters) + k log(span / precision).
    `fit` must be that of the rounded parameters. `ValueError` if the precision is not above 0, or
    is larger than `span`.
    """
    if not 0 < precision <= span < math.inf:
        raise ValueError(f"precision: must be above 0 and at most {span}, got {precision}")
    return fit + parameters * math.log(span / precision)


class Regression(NamedTuple):
    """Linear regression with Gaussian noise of unknown variance, fitted by least squares."""

    fit: float  # -log density at the best parameters
    bic: float  # k + 1 parameters, because the variance is also a parameter
    nml: float  # without a constant that is the same for all k
    variance: float  # residual sum of squares / n


def regression(x: ArrayLike, y: ArrayLike) -> Regression:
    """Code lengths of y [n] given the columns of x [n, k], 1 <= k < n, of full rank. NML
    has an exact form (Rissanen 2000):

        (n-k)/2 log t + k/2 log r - log Gamma((n-k)/2) - log Gamma(k/2) + n/2 log(n pi)
        t = |y - fit|^2 / n,   r = |fit|^2 / n

    The integral over all y is infinite, so it is taken over t in [t1, t2] and r in [r1, r2]. This
    adds log(log(t2/t1) log(r2/r1)), which is the same for every k and is left out. The length is
    that of a density, so it can be negative, and only differences have a meaning. `ValueError` for
    a matrix without full rank, for a perfect fit and for a fit of 0.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 2 or b.shape != a.shape[:1] or not 0 < a.shape[1] < len(a):
        raise ValueError(f"x, y: need [n, k] and [n] with 1 <= k < n: {a.shape}, {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("x, y: must be finite")
    n, k = a.shape
    # the lengths do not depend on the units of x; those of y are added at the end
    units = np.abs(a).max(0)
    a, unit = a / np.where(units > 0, units, 1), float(np.abs(b).max()) or 1.0
    b = b / unit
    if np.linalg.matrix_rank(a / np.sqrt((a**2).sum(0)).clip(min=1)) < k:
        raise ValueError("x: its columns are linearly dependent")
    basis = np.linalg.qr(a).Q
    fitted = basis @ (basis.T @ b)
    t, r = float(((b - fitted) ** 2).mean()), float((fitted**2).mean())
    scale = float((b**2).mean())
    if not (t > 1e-24 * scale and r > 1e-24 * scale):
        raise ValueError("y: is fitted perfectly or not at all, so its code has no finite length")
    fit = 0.5 * n * math.log(2 * math.pi * math.e * t)
    length = 0.5 * (n - k) * math.log(t) + 0.5 * k * math.log(r) + 0.5 * n * math.log(n * math.pi)
    length -= math.lgamma((n - k) / 2) + math.lgamma(k / 2)
    fit, length = fit + n * math.log(unit), length + n * math.log(unit)
    return Regression(fit, bic(fit, k + 1, n), length, t * unit * unit)
