"""Upper bounds on the error of a classifier on images that it has not seen.

n = images that the bound uses. A bound holds with probability 1 - `delta` over the draw of these
images. Errors are shares in [0, 1]; code lengths and divergences are in nats.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from core.information import units


def binary_kl(q: float, p: float) -> float:
    """KL of coins with P(1) = q and P(1) = p. It is infinite if one side of the coin has
    probability 0 under p, but not under q.

    >>> round(binary_kl(0.5, 0.9), 4)
    0.5108
    """
    total = 0.0
    for a, b in ((q, p), (1 - q, 1 - p)):
        if a > 0:
            total += a * (math.log(a) - math.log(b)) if b > 0 else math.inf
    return max(0.0, total)


def kl_upper(q: float, budget: float) -> float:
    """The largest p >= q with binary_kl(q, p) <= budget, or 1 if every p from q to just below 1
    satisfies this.

    >>> round(kl_upper(0.0, 0.1), 4) == round(1 - math.exp(-0.1), 4)
    True
    """
    if not 0 <= q <= 1 or not budget >= 0:
        raise ValueError(f"need an error in [0, 1] and a budget of 0 or more: {q}, {budget}")
    if q == 1 or budget == 0:
        return q
    top = math.nextafter(1.0, 0.0)
    if binary_kl(q, top) <= budget:
        return 1.0
    found = float(brentq(lambda p: binary_kl(q, p) - budget, q, top, xtol=1e-14))
    return found if binary_kl(q, found) >= budget else min(1.0, found + 1e-12)  # never too small


def error_interval(error: float, n: int, delta: float) -> tuple[float, float]:
    """Limits of the expected error, from the mean error of n new images. With probability 1 - delta
    the expected error lies between them (Chernoff's inequality, delta / 2 for each side). The error
    of an image may be any number in [0, 1].

    >>> low, high = error_interval(0.1, 1000, 0.01)
    >>> round(low, 3), round(high, 3)
    (0.072, 0.134)
    """
    _require(n, delta)
    budget = math.log(2 / delta) / n
    return 1 - kl_upper(1 - error, budget), kl_upper(error, budget)


def pac_bayes(error: float, divergence: float, n: int, delta: float) -> float:
    """PAC-Bayes-kl (Seeger 2002; Maurer 2004). With probability 1 - delta, for all posteriors Q at
    once,

        kl( error of Q on the images || error of Q ) <= (KL(Q || P) + log(2 sqrt(n) / delta)) / n

    Q is a distribution over classifiers. Its error is the expected error of a classifier that is
    drawn from Q for each image. The prior P must not depend on the n images. Returns the largest
    error of Q that this inequality allows.
    """
    _require(n, delta)
    if not divergence >= 0:
        raise ValueError(f"divergence: must be 0 or more, got {divergence}")
    return kl_upper(error, (divergence + math.log(2 * math.sqrt(n) / delta)) / n)


def occam(error: float, length: float, n: int, delta: float) -> float:
    """An upper limit of the error of a classifier whose description takes `length` nats in a prefix
    code. The code must be fixed before the images are seen. With probability 1 - delta, this holds
    for all classifiers at once:

        kl( error on the n images || error ) <= ( length + log(1 / delta) ) / n

    (This is Chernoff's inequality for each classifier with delta e^-length in place of delta. By
    Kraft's inequality, these sum to at most delta.)
    """
    _require(n, delta)
    if not length >= 0:
        raise ValueError(f"length: must be 0 or more, got {length}")
    return kl_upper(error, (length + math.log(1 / delta)) / n)


def expected_gap(information: float, n: int) -> float:
    """sqrt(I(S; W) / 2n). For losses in [0, 1], the error of weights W on new images exceeds
    their error on the n training images S by at most this, in expectation over S and W (Xu &
    Raginsky 2017, with sigma = 1/2). It is not a certificate for one sample.
    """
    if n < 1 or not information >= 0:
        raise ValueError(f"need n of 1 or more and information of 0 or more: {n}, {information}")
    return math.sqrt(information / (2 * n))


class Rice(NamedTuple):
    """A Golomb-Rice code of whole numbers: a prefix code that a decoder reads back."""

    bits: NDArray[np.uint8]  # of 0 and 1

    @property
    def nats(self) -> float:
        return units.nats(len(self.bits))


def rice_encode(values: ArrayLike) -> Rice:
    """The bits of whole numbers v. The first 4 bits hold k, the number from 0 to 15 that gives the
    shortest code. Then each v is coded as u = 2 |v| - (v > 0): u >> k zeros, a one, and the k
    lowest bits of u (Rice 1979).

    >>> rice_decode(rice_encode([0, -1, 5]), 3).tolist()
    [0, -1, 5]
    """
    given = np.asarray(values)
    if given.dtype.kind not in "iub" and given.size:
        raise ValueError(f"values: must be whole numbers, got {given.dtype}")
    if given.size and max(-int(given.min()), int(given.max())) >= 2**62:
        raise ValueError("values: must be below 2^62")
    v = given.astype(np.int64).ravel()
    u = 2 * np.abs(v) - (v > 0)
    k = min(range(16), key=lambda k: int((u >> k).sum()) + k * len(u))
    found = [int(bit) for bit in f"{k:04b}"]
    for number in u.tolist():
        found += [0] * (number >> k) + [1]
        found += [(number >> place) & 1 for place in reversed(range(k))]
    return Rice(np.array(found, dtype=np.uint8))


def rice_decode(code: Rice, count: int) -> NDArray[np.int64]:
    """The `count` numbers of a code. `ValueError` if it is too short."""
    bits, place = code.bits.tolist(), 4
    made: list[int] = []
    k = int("".join(map(str, bits[:4])), 2)
    for _ in range(count):
        if 1 not in bits[place:]:
            raise ValueError(f"the code ends after {len(made)} of {count} numbers")
        end = bits.index(1, place)
        rest = bits[end + 1 : end + 1 + k]
        u = (end - place << k) + int("0" + "".join(map(str, rest)), 2)
        place = end + 1 + k
        made.append((u + 1) // 2 if u % 2 else -(u // 2))
    return np.array(made, dtype=np.int64)


def _require(n: int, delta: float) -> None:
    if n < 1 or not 0 < delta < 1:
        raise ValueError(f"need n of 1 or more and delta in (0, 1): {n}, {delta}")
