"""Paired samples as a critic reads them: marginals mapped to normal scores, and a few features of
each sample.

n = samples, d = dimensions.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]
SYMBOLS = 16  # a column with at most so many values is a symbol, not a quantity


def normal_scores(reference: Array, x: Array) -> Array:
    """Each column through the reference's empirical distribution function, then the normal quantile
    function; [n, d].

    Mutual information does not change under invertible maps of a coordinate, and a critic that sees
    no heavy tails is easier to fit. `reference` is what the critic trains on, so that a held-out
    sample takes no part in its own map. Ties share their mean rank.
    """
    scores = np.empty_like(x)
    for column in range(x.shape[1]):
        known = np.sort(reference[:, column])
        rank = (
            np.searchsorted(known, x[:, column], "left")
            + np.searchsorted(known, x[:, column], "right")
        ) / 2
        scores[:, column] = ndtri((rank + 0.5) / (len(known) + 1))
    return scores


def features(reference: Array, x: Array, scores: Array) -> Array:
    """The scores, their radius (what is left of them under rotation, which elliptical tails and
    spirals turn on), and a one-hot code of every column that holds few distinct values.
    """
    square = (scores**2).sum(1, keepdims=True) / x.shape[1]
    parts = [scores, square - 1, np.log(square + 1e-2)]
    for column in range(x.shape[1]):
        values = np.unique(reference[:, column])
        if len(values) <= SYMBOLS:
            parts.append((x[:, column, None] == values).astype(np.float64))
    return np.concatenate(parts, 1)
