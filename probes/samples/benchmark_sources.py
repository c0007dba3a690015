"""Sources of pairs whose mutual information is known, to test estimators.

n = pairs, d = dimensions of each side, rho = correlation. A source is a function of (n, seed).
Information is in nats.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln, ndtr

Array = NDArray[np.float64]
Map = Callable[[Array], Array]


class Known(NamedTuple):
    """Pairs x [n, dx], y [n, dy], and log p(x_i, y_i) / p(x_i) p(y_i) [n], whose mean is the
    information of this sample.
    """

    x: Array
    y: Array
    pointwise: Array
    information: float  # the expectation of this mean, in closed form


Source = Callable[[int, int], Known]


def correlation(information: float, d: int) -> float:
    """rho of d equal dimensions with I = -d/2 log(1 - rho^2)."""
    return math.sqrt(-math.expm1(-2 * information / d))


def gaussian(information: float, d: int, informative: int | None = None) -> Source:
    """Standard normal pairs; `informative` dimensions (default: all) have one correlation, the
    others are noise.
    """
    carriers = informative or d
    rho = np.zeros(d)
    rho[:carriers] = correlation(information, carriers)

    def draw(n: int, seed: int) -> Known:
        random = np.random.default_rng(seed)
        x = random.normal(size=(n, d))
        y = rho * x + np.sqrt(1 - rho**2) * random.normal(size=(n, d))
        pointwise = information + 0.5 * (y**2 - (y - rho * x) ** 2 / (1 - rho**2)).sum(1)
        return Known(x, y, pointwise, information)

    return draw


def mapped(source: Source, of_x: Map, of_y: Map) -> Source:
    """The source with an invertible map of each side. Such maps change no information."""

    def draw(n: int, seed: int) -> Known:
        made = source(n, seed)
        return made._replace(x=of_x(made.x), y=of_y(made.y))

    return draw


def half_cube(x: Array) -> Array:
    return np.sign(x) * np.abs(x) ** 1.5


def wiggly(x: Array) -> Array:
    """Slope between 0.16 and 1.84."""
    return x + 0.4 * np.sin(x) + 0.2 * np.sin(1.7 * x + 1) + 0.03 * np.sin(3.3 * x - 2.5)


def swiss_roll(x: Array) -> Array:
    """Normal [n, 1] rolled up in the plane [n, 2]."""
    angle = 1.5 * math.pi * (1 + 2 * ndtr(x[:, 0]))
    return np.stack([angle * np.cos(angle), angle * np.sin(angle)], 1) / 21


def spiral(x: Array, speed: float = 0.5) -> Array:
    """Rotate the first two coordinates by an angle that grows with the distance from the origin."""
    angle = speed * (x**2).sum(1)
    first = np.cos(angle) * x[:, 0] - np.sin(angle) * x[:, 1]
    second = np.sin(angle) * x[:, 0] + np.cos(angle) * x[:, 1]
    return np.column_stack([first, second, x[:, 2:]])


def additive_uniform(width: float) -> Source:
    """y = x + u, x uniform on [0, 1], u uniform on [-width, width]:  I = width - log(2 width), or
    1 / (4 width) above width 1/2.
    """
    information = width - math.log(2 * width) if width <= 0.5 else 1 / (4 * width)

    def draw(n: int, seed: int) -> Known:
        random = np.random.default_rng(seed)
        x = random.uniform(size=(n, 1))
        y = x + random.uniform(-width, width, size=(n, 1))
        # p(y) = reach / (2 width), p(y|x) = 1 / (2 width)
        reach = np.minimum(1, y + width) - np.maximum(0, y - width)
        return Known(x, y, -np.log(reach[:, 0]), information)

    return draw


def student(information: float, d: int, freedom: int) -> Source:
    """Multivariate t: Gaussian pairs with `information`; both sides are divided by the same chi
    variable, which adds information.

    I = h(x) + h(y) - h(x, y), h of k dimensions = log(Gamma(v/2) (pi v)^(k/2) / Gamma((v+k)/2)) +
    (v+k)/2 (psi((v+k)/2) - psi(v/2)).
    """
    rho = correlation(information, d)

    def entropy(k: int) -> float:
        half, total = freedom / 2, (freedom + k) / 2
        scale = gammaln(half) + k / 2 * math.log(math.pi * freedom) - gammaln(total)
        return float(scale + total * (digamma(total) - digamma(half)))

    def log_density(square: Array, k: int) -> Array:
        half, total = freedom / 2, (freedom + k) / 2
        scale = gammaln(total) - gammaln(half) - k / 2 * math.log(math.pi * freedom)
        return np.asarray(scale - total * np.log1p(square / freedom))

    def draw(n: int, seed: int) -> Known:
        random = np.random.default_rng(seed)
        x = random.normal(size=(n, d))
        y = rho * x + math.sqrt(1 - rho**2) * random.normal(size=(n, d))
        scale = np.sqrt(freedom / random.chisquare(freedom, size=(n, 1)))
        x, y = scale * x, scale * y
        square = ((x**2 + y**2 - 2 * rho * x * y) / (1 - rho**2)).sum(1)
        joint = log_density(square, 2 * d) + information  # log det of the dispersion is -2 I
        alone_x, alone_y = (log_density((side**2).sum(1), d) for side in (x, y))
        return Known(x, y, joint - alone_x - alone_y, truth)

    truth = information + 2 * entropy(d) - entropy(2 * d)
    return draw


def channel(letters: int, error: float) -> Source:
    """A letter, and the output of a symmetric channel:  I = log M - h(error) - error log(M - 1),
    where h is the binary entropy.
    """
    right, wrong = math.log(letters * (1 - error)), math.log(letters * error / (letters - 1))

    def draw(n: int, seed: int) -> Known:
        random = np.random.default_rng(seed)
        x = random.integers(letters, size=(n, 1))
        kept = random.uniform(size=(n, 1)) >= error
        y = np.where(kept, x, (x + random.integers(1, letters, size=(n, 1))) % letters)
        pointwise = np.where(kept[:, 0], right, wrong)
        information = (1 - error) * right + error * wrong
        return Known(x.astype(np.float64), y.astype(np.float64), pointwise, information)

    return draw


def contents(m: int) -> Source:
    """Vectors that share what two views of sprites share: on each side, the content is a place on a
    circle, and everything else is drawn independently. So I = log M.
    """

    def draw(n: int, seed: int) -> Known:
        random = np.random.default_rng(seed)
        content = random.integers(m, size=n)
        sides = []
        for _ in range(2):
            angle = 2 * math.pi * (content + 0.6 * (random.uniform(size=n) - 0.5)) / m
            radius = 1 + 0.5 * random.uniform(size=n)
            place = radius * np.cos(angle), radius * np.sin(angle)
            sides.append(np.stack([*place, random.normal(size=n)], 1))
        return Known(sides[0], sides[1], np.full(n, math.log(m)), math.log(m))

    return draw


_BASE, _PLANE = gaussian(0.413, 1), gaussian(1.022, 3, informative=2)

_GAUSSIANS = [(d, nats) for d in (1, 5, 20, 50) for nats in (0, 1, 2, 4)]
_GAUSSIANS += [(20, nats) for nats in (6, 8, 10)]

# from zero information to more than any of the bounds can show
SUITE: dict[str, Source] = {
    **{f"gaussian {d} x {d} of {nats:g} nats": gaussian(nats, d) for d, nats in _GAUSSIANS},
    "gaussian 25 x 25 in 2 dimensions": gaussian(1.022, 25, informative=2),
    "normal cdf 5 x 5": mapped(gaussian(1.022, 5, informative=2), ndtr, ndtr),
    "half-cube 5 x 5": mapped(gaussian(1.022, 5, informative=2), half_cube, half_cube),
    "asinh of student 2 x 2": mapped(student(0.288, 2, 1), np.arcsinh, np.arcsinh),
    "wiggly 1 x 1": mapped(_BASE, wiggly, wiggly),
    "swiss roll 2 x 1": mapped(_BASE, swiss_roll, ndtr),
    "spiral 3 x 3": mapped(_PLANE, spiral, spiral),
    "additive uniform 0.1": additive_uniform(0.1),
    "additive uniform 0.75": additive_uniform(0.75),
    "student 1 x 1 of 1 degree": student(0.0, 1, 1),
    "student 3 x 3 of 2 degrees": student(0.2, 3, 2),
    "student 5 x 5 of 3 degrees": student(0.2, 5, 3),
    "channel of 4 letters": channel(4, 0.3),
    "channel of 16 letters": channel(16, 0.1),
    "8 contents on a circle": contents(8),
}
