"""The Gaussian critic in closed form, from which the training of critics of vectors can start.

n = pairs, dx dy = dimensions, r = canonical correlations kept.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ROUNDING = 1e-12  # of the largest variance


class Canonical(NamedTuple):
    """Canonical directions of x [dx, r] and y [dy, r], means, and correlations [r]."""

    to_u: Array
    to_v: Array
    mean_x: Array
    mean_y: Array
    correlations: Array

    def information(self) -> float:
        """-1/2 sum log(1 - rho^2): I of Gaussians with these correlations, in nats."""
        return float(-0.5 * np.log1p(-(self.correlations**2)).sum())

    def variates(self, x: Array, y: Array) -> tuple[Array, Array]:
        """u, v [n, r], the canonical directions of pairs."""
        return (x - self.mean_x) @ self.to_u, (y - self.mean_y) @ self.to_v

    def strongest(self) -> "Canonical":
        """The directions with at least half of the largest correlation. If some columns are
        functions of others, as in `waves`, a function of one direction appears as another, weaker
        direction. The Gaussian critic would then count the same information twice.
        """
        kept = self.correlations >= 0.5 * self.correlations.max(initial=0.0)
        return Canonical(
            self.to_u[:, kept],
            self.to_v[:, kept],
            self.mean_x,
            self.mean_y,
            self.correlations[kept],
        )

    def codes(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Codes [n, r + 2] whose inner product is log p(x, y) / p(x) p(y) of the fitted Gaussian:

        sum_i  rho_i u_i v_i / (1 - rho_i^2)  -  rho_i^2 (u_i^2 + v_i^2) / (2 (1 - rho_i^2))  -
        log(1 - rho_i^2) / 2
        """
        u, v = self.variates(x, y)
        precision = 1 / (1 - self.correlations**2)
        quadratic = 0.5 * self.correlations**2 * precision
        one = np.ones((len(x), 1))
        alone_u = -(u**2 @ quadratic)[:, None] + self.information()
        alone_v = -(v**2 @ quadratic)[:, None]
        first = np.concatenate([u * self.correlations * precision, alone_u, one], 1)
        return first, np.concatenate([v, one, alone_v], 1)


def canonical(x: Array, y: Array, held_x: Array, held_y: Array) -> Canonical:
    """Directions from x [n, dx], y [n, dy], and correlations from held-out pairs; only correlations
    above the noise are kept.

    On the fitted pairs, the canonical correlations of independent data in many dimensions are far
    from zero; on held-out pairs they are not. A critic with few directions overfits less.
    """
    mean_x, mean_y = x.mean(0), y.mean(0)
    white_x, white_y = _whitening(x), _whitening(y)
    cross = ((x - mean_x) @ white_x).T @ ((y - mean_y) @ white_y) / len(x)
    left, _, right = np.linalg.svd(cross, full_matrices=False)
    to_u, to_v = white_x @ left, white_y @ right.T
    u, v = (held_x - mean_x) @ to_u, (held_y - mean_y) @ to_v
    correlations = (u * v).mean(0) / np.sqrt((u**2).mean(0) * (v**2).mean(0))
    kept = correlations > 2 / np.sqrt(len(held_x))
    rho = correlations[kept].clip(max=0.9999)
    return Canonical(to_u[:, kept], to_v[:, kept], mean_x, mean_y, rho)


def _whitening(x: Array) -> Array:
    """Directions [d, r] in which x [n, d] varies, divided by their standard deviation, which is at
    least 1/sqrt(1000) of the largest. With fewer pairs than dimensions, there are at
    most n such directions.
    """
    n, d = x.shape
    if n < d:
        _, deviations, directions = np.linalg.svd(x - x.mean(0), full_matrices=False)
        values, vectors = deviations**2 / (n - 1), directions.T
    else:
        values, vectors = np.linalg.eigh(np.cov(x.T).reshape(d, d))
    most = values.max()
    kept = values > ROUNDING * most  # smaller ones are only rounding errors
    return vectors[:, kept] / np.sqrt(np.maximum(values[kept], 1e-3 * most))
