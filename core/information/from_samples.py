"""Estimates of entropy and mutual information from samples. None of them is a bound.

Discrete samples: plug-in (the entropy of the frequencies) and Miller-Madow. Continuous columns: the
nearest-neighbour estimate of Kraskov et al. n = samples, K = values that occur.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.information import atoms
from core.information.units import in_base

Array = NDArray[np.float64]


def plug_in_entropy(x: ArrayLike, base: float = math.e) -> float:
    """H of the frequencies of samples x [n]. The values may be of any type that can be compared.
    The estimate is biased low, by about (K - 1) / (2 n) nats, and never exceeds log n.

    >>> plug_in_entropy(["head", "tail", "tail", "head"], base=2)
    1.0
    """
    counts = _counts(x, "x")
    return atoms.entropy(counts / counts.sum(), base)


def miller_madow_entropy(x: ArrayLike, base: float = math.e) -> float:
    """Plug-in entropy + (K - 1) / (2 n), the first-order correction of its bias, for K values that
    occur among n samples (Miller 1955).

    >>> round(miller_madow_entropy([0, 1, 1, 0]) - plug_in_entropy([0, 1, 1, 0]), 4)
    0.125
    """
    counts = _counts(x, "x")
    plug_in = atoms.entropy(counts / counts.sum())
    return in_base(float(plug_in + (len(counts) - 1) / (2 * counts.sum())), base)


def plug_in_information(x: ArrayLike, y: ArrayLike, base: float = math.e) -> float:
    """I(X; Y) of the frequencies of pairs, H(X) + H(Y) - H(X, Y) by the plug-in entropy. It is
    biased high: for independent X and Y, it is about (K_x - 1)(K_y - 1) / (2 n) nats.
    """
    table = _table(x, y)
    return atoms.mutual_information(table / table.sum(), base)


def miller_madow_information(x: ArrayLike, y: ArrayLike, base: float = math.e) -> float:
    """H(X) + H(Y) - H(X, Y) by the Miller-Madow entropy. A value below 0 is returned as it
    is; it means that nothing was found.
    """
    table = _table(x, y)
    n = table.sum()
    occur = (table.any(1).sum() - 1) + (table.any(0).sum() - 1) - ((table > 0).sum() - 1)
    return in_base(float(atoms.mutual_information(table / n) + occur / (2 * n)), base)


def nearest_neighbour_information(
    x: ArrayLike, y: ArrayLike, neighbours: int = 3, seed: int = 0, base: float = math.e
) -> float:
    """I(X; Y) of two continuous columns x, y [n] by k nearest neighbours (Kraskov, Stoegbauer,
    Grassberger 2004). It is computed by scikit-learn's `mutual_info_regression`: both columns are
    scaled to deviation 1, noise of 1e-10 breaks ties (`seed`), and a negative estimate is set to 0.

    For several columns see `probes.estimate`. `ValueError` for fewer than `neighbours` + 2 samples.
    """
    from sklearn.feature_selection import mutual_info_regression

    columns = [np.asarray(side, dtype=np.float64) for side in (x, y)]
    if columns[0].ndim != 1 or columns[0].shape != columns[1].shape:
        raise ValueError(f"x, y: must be columns [n], got {[list(c.shape) for c in columns]}")
    if len(columns[0]) < neighbours + 2:
        raise ValueError(f"x, y: {len(columns[0])} samples are too few for {neighbours} neighbours")
    found = mutual_info_regression(
        columns[0][:, None], columns[1], n_neighbors=neighbours, random_state=seed % 2**32
    )
    return in_base(float(found[0]), base)


def _counts(x: ArrayLike, name: str) -> Array:
    """How often each value occurs, float64 [K]."""
    values = np.asarray(x)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name}: must be samples [n], got the shape {list(values.shape)}")
    _refuse_missing(values)
    return np.unique(values, return_counts=True)[1].astype(np.float64)


def _table(x: ArrayLike, y: ArrayLike) -> Array:
    """Counts [K_x, K_y] of pairs."""
    sides = np.asarray(x), np.asarray(y)
    if sides[0].ndim != 1 or sides[0].shape != sides[1].shape or not len(sides[0]):
        raise ValueError(f"x, y: must be paired samples [n], got {[list(s.shape) for s in sides]}")
    _refuse_missing(*sides)
    rows, columns = (np.unique(side, return_inverse=True)[1] for side in sides)
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1)
    return table


def _refuse_missing(*sides: NDArray[Any]) -> None:
    """`ValueError` for NaN and for masked values, which would count as one more value."""
    for values in sides:
        if values.dtype.kind in "fc" and np.isnan(values).any():
            raise ValueError("samples: NaN is no value; leave such samples out")
        if values.dtype.kind == "O" and any(one is None or one != one for one in values):
            raise ValueError("samples: None and NaN are no values; leave such samples out")
