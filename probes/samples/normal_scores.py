"""The input of a critic for paired samples: normal scores of each column, and a few features.

n = samples, d = dimensions.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]
SYMBOLS = 16  # a column with at most this many values holds symbols, not quantities


def normal_scores(reference: Array, x: Array) -> Array:
    """Each column mapped by the empirical distribution function of `reference`, then by the normal
    quantile function; [n, d].

    Invertible maps of a coordinate do not change mutual information, and a critic is easier to fit
    without heavy tails. `reference` holds the training pairs, so that a held-out sample does not
    influence its own map. Ties have their mean rank.
    """
    scores = np.empty_like(x)
    for column in range(x.shape[1]):
        known = np.sort(reference[:, column])
        left, right = (np.searchsorted(known, x[:, column], side) for side in ("left", "right"))
        rank = (left + right) / 2
        scores[:, column] = ndtri((rank + 0.5) / (len(known) + 1))
    return scores


def features(reference: Array, x: Array, scores: Array) -> Array:
    """The scores, functions of their radius (for dependence through the radius, such as in
    elliptical distributions and spirals), and a one-hot code of every column with few distinct
    values.
    """
    square = (scores**2).sum(1, keepdims=True) / x.shape[1]
    parts = [scores, square - 1, np.log(square + 1e-2)]
    for column in range(x.shape[1]):
        values = np.unique(reference[:, column])
        if len(values) <= SYMBOLS:
            parts.append((x[:, column, None] == values).astype(np.float64))
    return np.concatenate(parts, 1)
