"""Entropy, divergence and information of Gaussians, in closed form.

d = dimensions. Covariances are symmetric and positive definite [d, d]; a single number is a
variance, d = 1. All functions return nats by default, another unit with `base`. They raise
`ValueError` for a matrix that is not a covariance. Source: Cover & Thomas, chapter 8.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.information.units import in_base

Array = NDArray[np.float64]


def gaussian_entropy(covariance: ArrayLike, base: float = math.e) -> float:
    """h(X) = 1/2 log det(2 pi e Sigma), the largest entropy of all densities with this covariance.
    As a differential entropy, it can be negative, and it changes with the unit of x.

    >>> round(gaussian_entropy(1.0), 4)
    1.4189
    """
    root = _root(covariance, "covariance")
    return in_base(0.5 * len(root) * math.log(2 * math.pi * math.e) + _half_log_det(root), base)


def gaussian_kl(
    mean: ArrayLike,
    covariance: ArrayLike,
    other_mean: ArrayLike,
    other_covariance: ArrayLike,
    base: float = math.e,
) -> float:
    """D( N(m, S) || N(m', S') ), in closed form:

        1/2 ( tr(S'^-1 S) + (m' - m)' S'^-1 (m' - m) - d + log det S' - log det S )

    >>> round(gaussian_kl(0, 1, 1, 1), 4)  # half of the squared distance in standard deviations
    0.5
    """
    root, other = _root(covariance, "covariance"), _root(other_covariance, "other_covariance")
    means = [np.atleast_1d(np.asarray(m, dtype=np.float64)) for m in (mean, other_mean)]
    if not root.shape == other.shape == 2 * means[0].shape == 2 * means[1].shape:
        raise ValueError(
            f"means of {[m.shape for m in means]} and covariances of {root.shape} and"
            f" {other.shape}: must have the same number of dimensions"
        )
    if not all(np.isfinite(m).all() for m in means):
        raise ValueError("means: must be finite")
    spread = np.linalg.solve(other, root)
    distance = np.linalg.solve(other, means[1] - means[0])
    squares = float((spread**2).sum() + (distance**2).sum()) - len(root)
    return in_base(0.5 * squares + _half_log_det(other) - _half_log_det(root), base)


def gaussian_information(covariance: ArrayLike, first: int, base: float = math.e) -> float:
    """I(X; Y) of jointly Gaussian (X, Y), where X has the first `first` dimensions of the
    covariance:

        1/2 log( det S_x det S_y / det S )

    `ValueError` unless X and Y both have at least one dimension.

    >>> import math
    >>> round(gaussian_information([[1, 0.6], [0.6, 1]], 1), 4) == round(-0.5 * math.log(0.64), 4)
    True
    """
    joint = np.atleast_2d(np.asarray(covariance, dtype=np.float64))
    if not 0 < first < len(joint):
        raise ValueError(f"first: must be from 1 to {len(joint) - 1}, got {first}")
    parts = _root(joint[:first, :first], "covariance"), _root(joint[first:, first:], "covariance")
    together = sum(map(_half_log_det, parts)) - _half_log_det(_root(joint, "covariance"))
    return in_base(max(0.0, together), base)


def _root(covariance: ArrayLike, name: str) -> Array:
    """The lower Cholesky factor [d, d]."""
    matrix = np.atleast_2d(np.asarray(covariance, dtype=np.float64))
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ValueError(f"{name}: must be a finite square matrix, got {list(matrix.shape)}")
    if not np.allclose(matrix, matrix.T, rtol=1e-8, atol=1e-12 * np.abs(matrix).max()):
        raise ValueError(f"{name}: must be symmetric")
    try:
        return np.asarray(np.linalg.cholesky(matrix), dtype=np.float64)
    except np.linalg.LinAlgError:
        raise ValueError(f"{name}: must be positive definite") from None


def _half_log_det(root: Array) -> float:
    return float(np.log(np.diagonal(root)).sum())
