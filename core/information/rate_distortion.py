"""Rate-distortion functions in closed form: the fewest nats that describe a source with a given
distortion.

    R(D) = min I(X; Y) over p(y|x) with E d(x, y) <= D            (Shannon 1959; Berger 1971)

Every code lies on or above the curve. n = components of a source.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]


class Point(NamedTuple):
    """A point of a curve R(D), with the curve's slope."""

    rate: float  # nats
    distortion: float
    slope: float  # dR/dD <= 0, the change of rate per unit of distortion; -inf at distortion 0


def gaussian_rate(variance: float, distortion: float) -> float:
    """R(D) of N(., variance) under squared error, in nats (Shannon 1959; Cover & Thomas, theorem
    10.3.2).

        R(D) = 1/2 log(variance / D)   for D < variance, else 0

    `ValueError` if variance or distortion is not above 0 (at 0 the rate is infinite).
    """
    if not 0 < variance < math.inf:
        raise ValueError(f"variance: must be above 0, got {variance}")
    if not 0 < distortion < math.inf:
        raise ValueError(f"distortion: must be above 0 (R(0) is infinite), got {distortion}")
    return max(0.0, 0.5 * math.log(variance / distortion))


def bernoulli_rate(probability: float, distortion: float) -> float:
    """R(D) of a coin that shows 1 with probability p, under Hamming distortion, in nats (Cover &
    Thomas, theorem 10.3.1).

        R(D) = h(p) - h(D)   for D < min(p, 1 - p), else 0,   h(p) = -p log p - (1 - p) log(1 - p)

    `ValueError` if probability or distortion is outside of [0, 1].
    """
    for name, value in (("probability", probability), ("distortion", distortion)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: must be in [0, 1], got {value}")
    rarer = min(probability, 1 - probability)
    return _binary_entropy(rarer) - _binary_entropy(distortion) if distortion < rarer else 0.0


class WaterFilling:
    """R(D) of a Gaussian vector under squared error, summed over its n components, by reverse
    water-filling.

        R(theta) = sum_i max(0, 1/2 log(lambda_i / theta)),   D(theta) = sum_i min(theta, lambda_i),
        dR/dD = -1 / (2 theta)

    lambda_i are the eigenvalues of the covariance, theta is the water level. Components below the
    level are not coded; each of the others has the error theta (Berger 1971, section 4.5; Cover &
    Thomas, theorem 10.3.3). D is piecewise linear in theta, and R in log theta, so both have exact
    inverses. `ValueError` for eigenvalues that are not a vector of finite numbers >= 0, or all 0.
    """

    def __init__(self, eigenvalues: ArrayLike):
        values = np.asarray(eigenvalues, dtype=np.float64)
        if values.ndim != 1 or not values.size:
            raise ValueError(f"eigenvalues: must be a vector, got the shape {list(values.shape)}")
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() > 0):
            raise ValueError("eigenvalues: must be finite, 0 or more and not all 0")
        self.eigenvalues: Vector = np.sort(values)[::-1]

    @property
    def variance(self) -> float:
        """The sum of the eigenvalues: the distortion at rate 0."""
        return float(self.eigenvalues.sum())

    def at_level(self, level: float) -> Point:
        """The point of a water level theta > 0."""
        if not 0 < level < math.inf:
            raise ValueError(f"level: must be above 0, got {level}")
        level = min(level, float(self.eigenvalues[0]))
        kept = self.eigenvalues[self.eigenvalues > level]
        return Point(
            float(0.5 * np.log(kept / level).sum()),
            float(np.minimum(level, self.eigenvalues).sum()),
            -0.5 / level,
        )

    def at_slope(self, slope: float) -> Point:
        """The point where dR/dD is `slope` < 0. A slope that is closer to 0 than every slope of the
        curve gives rate 0.
        """
        if not -math.inf < slope < 0:
            raise ValueError(f"slope: must be below 0, got {slope}")
        return self.at_level(-0.5 / slope)

    def at_distortion(self, distortion: float) -> Point:
        """The point of a distortion in (0, variance]; larger distortions give rate 0."""
        if not 0 < distortion < math.inf:
            raise ValueError(f"distortion: must be above 0 (R(0) is infinite), got {distortion}")
        knots = np.concatenate([[0.0], self.eigenvalues[::-1]])
        distortions = np.minimum(knots[:, None], self.eigenvalues).sum(1)
        return self.at_level(float(np.interp(distortion, distortions, knots)))

    def at_rate(self, rate: float) -> Point:
        """The point of a rate >= 0 in nats."""
        if not 0 <= rate < math.inf:
            raise ValueError(f"rate: must be 0 or more nats, got {rate}")
        logs = np.log(self.eigenvalues[self.eigenvalues > 0])
        counts = np.arange(1, len(logs) + 1)
        # number of components above the water level at that rate
        kept = int((0.5 * (logs.cumsum() - counts * logs) <= rate).sum())
        return self.at_level(math.exp(float(logs[:kept].mean()) - 2 * rate / kept))


def _binary_entropy(p: float) -> float:
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)
