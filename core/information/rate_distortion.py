"""Rate-distortion functions in closed form: the fewest nats at which a source can be kept to a
given mean distortion.

    R(D) = min I(X; Y) over p(y|x) with E d(x, y) <= D            (Shannon 1959; Berger 1971)

Every code lies on or above the curve: the region above R(D) is achievable, below it nothing is. n =
components of a source.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]


class Point(NamedTuple):
    """A point of a curve R(D), and how steep the curve is there."""

    rate: float  # nats
    distortion: float
    slope: float  # dR/dD <= 0: nats that one more unit of distortion saves; -inf at no distortion


def gaussian_rate(variance: float, distortion: float) -> float:
    """R(D) of N(., variance) under squared error, in nats (Shannon 1959; Cover & Thomas, theorem
    10.3.2).

        R(D) = 1/2 log(variance / D)   for D < variance, else 0

    Raises `ValueError` for a variance that is not above 0 or a distortion that is not above 0 (at 0
    the rate is infinite).
    """
    if not 0 < variance < math.inf:
        raise ValueError(f"variance: must be above 0, got {variance}")
    if not 0 < distortion < math.inf:
        raise ValueError(
            f"distortion: must be above 0, where a Gaussian's rate is infinite, got {distortion}"
        )
    return max(0.0, 0.5 * math.log(variance / distortion))


def bernoulli_rate(probability: float, distortion: float) -> float:
    """R(D) of a coin that shows 1 with that probability, under Hamming distortion, in nats (Cover &
    Thomas, theorem 10.3.1).

        R(D) = h(p) - h(D)   for D < min(p, 1 - p), else 0,   h(p) = -p log p - (1 - p) log(1 - p)

    Raises `ValueError` for a probability or a distortion outside [0, 1].
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

    lambda_i are the eigenvalues of its covariance and theta is the water level: components below it
    are not coded at all, each of the others keeps an error of theta (Berger 1971, section 4.5;
    Cover & Thomas, theorem 10.3.3). D is piecewise linear in theta, and R in log theta, so both are
    inverted exactly.

    Raises `ValueError` for eigenvalues that are no vector of finite numbers >= 0 with at least one
    above 0.
    """

    def __init__(self, eigenvalues: ArrayLike):
        values = np.asarray(eigenvalues, dtype=np.float64)
        if values.ndim != 1 or not values.size:
            raise ValueError(
                f"eigenvalues: a vector of them is wanted, got the shape {list(values.shape)}"
            )
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() > 0):
            raise ValueError(
                "eigenvalues: must be finite, 0 or more and not all 0, as those of a covariance are"
            )
        self.eigenvalues: Vector = np.sort(values)[::-1]

    @property
    def variance(self) -> float:
        """The sum of the eigenvalues, the distortion at no rate."""
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
        """The point where dR/dD is `slope` < 0; one flatter than the curve's flattest gives its
        end, no rate.
        """
        if not -math.inf < slope < 0:
            raise ValueError(f"slope: must be below 0, got {slope}")
        return self.at_level(-0.5 / slope)

    def at_distortion(self, distortion: float) -> Point:
        """The point of a distortion in (0, variance]; above it, where nothing need be coded, the
        curve's end.
        """
        if not 0 < distortion < math.inf:
            raise ValueError(
                "distortion: must be above 0, where a Gaussian's rate is infinite, got"
                f" {distortion}"
            )
        knots = np.concatenate([[0.0], self.eigenvalues[::-1]])
        return self.at_level(
            float(np.interp(distortion, np.minimum(knots[:, None], self.eigenvalues).sum(1), knots))
        )

    def at_rate(self, rate: float) -> Point:
        """The point of a rate >= 0 in nats."""
        if not 0 <= rate < math.inf:
            raise ValueError(f"rate: must be 0 or more nats, got {rate}")
        logs = np.log(self.eigenvalues[self.eigenvalues > 0])
        counts = np.arange(1, len(logs) + 1)
        kept = int(
            (0.5 * (logs.cumsum() - counts * logs) <= rate).sum()
        )  # components above the water at that rate
        return self.at_level(math.exp(float(logs[:kept].mean()) - 2 * rate / kept))


def _binary_entropy(p: float) -> float:
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)
