"""Functions that give the same bits on every processor, for counts that must be equal in the
encoder and the decoder.

A math library's exp or erf may differ in its last bit from one processor to another, and so may a
sum whose order the compiler chose. This file uses only sums, products and quotients of two float64
numbers, because IEEE 754 fixes their results. Each operation is one numpy call, so that no two are
fused.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]

STEPS = 1024  # of the table of Phi, per unit
END = 9.0  # Phi(-9) is 1e-19
# log 2 in two parts; the first has 32 bits, so that its product with an exponent is exact
LN2_HIGH, LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10
TERMS = 14


def exp(x: Any) -> Reals:
    """e^x for x in [-700, 700], within 2 units in the last place."""
    x = np.asarray(x, dtype=np.float64)
    power = np.rint(x * 1.4426950408889634)
    rest = x - power * LN2_HIGH
    rest = rest - power * LN2_LOW
    total = np.ones_like(rest)
    for n in range(TERMS, 0, -1):  # Horner: 1 + r/1 (1 + r/2 (1 + ...))
        total = total * (rest / n)
        total = total + 1.0
    return np.ldexp(total, power.astype(np.int64))


def sigmoid(x: Any) -> Reals:
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + exp(-np.clip(np.asarray(x, dtype=np.float64), -700.0, 700.0)))


@cache
def _phi() -> Reals:
    """Phi at -9, -9 + 1/1024, ..., 9, rounded to multiples of 2^-40, so that differences are exact.

    It is computed by Simpson's rule, with an error below 1e-14.
    """
    half = np.arange(int(2 * END * STEPS) + 1) / (2.0 * STEPS)  # 0 to 9 in steps of 1/2048
    density = exp(half * half * -0.5) * 0.3989422804014327
    parts = (density[:-2:2] + 4.0 * density[1:-1:2]) + density[2::2]
    upper = 0.5 + np.cumsum(parts) / (6.0 * STEPS)
    upper = np.minimum(np.rint(np.concatenate([[0.5], upper]) * 2.0**40), 2.0**40) / 2.0**40
    return np.concatenate([1.0 - upper[:0:-1], upper])


def normal_cdf(t: Reals) -> Reals:
    """Phi(t) within 3e-8, by linear interpolation in a table; it never decreases."""
    table = _phi()
    place = (np.clip(t, -END, END) + END) * float(STEPS)
    left = np.minimum(place.astype(np.int64), len(table) - 2)
    low = table[left]
    return low + (place - left) * (table[left + 1] - low)
