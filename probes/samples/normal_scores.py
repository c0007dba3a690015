"""The input of a critic for paired samples: ranks and normal scores of each column, and features.

n = samples, d = dimensions. `reference` always holds training pairs, so that a held-out sample does
not influence its own map.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]
SYMBOLS = 16  # a column with at most this many values holds symbols, not quantities
LABELS = 256  # the same for a column of whole numbers
EACH = 10  # the least number of samples for each value of a label, on average


def ranks(reference: Array, x: Array) -> Array:
    """Each column mapped by the empirical distribution function of `reference` into (0, 1), [n, d].
    Ties have their mean rank.
    """
    found = np.empty(x.shape)
    for column in range(x.shape[1]):
        known = np.sort(reference[:, column])
        left, right = (np.searchsorted(known, x[:, column], side) for side in ("left", "right"))
        found[:, column] = ((left + right) / 2 + 0.5) / (len(known) + 1)
    return found


def normal_scores(reference: Array, x: Array) -> Array:
    """Ranks mapped by the normal quantile function, [n, d].

    Invertible maps of a coordinate do not change mutual information, and a critic is easier to fit
    without heavy tails.
    """
    return np.asarray(ndtri(ranks(reference, x)))


def heavy_radius(share: Array) -> Array:
    """log sum_d t_d^2 of ranks [n, d], with t the quantiles of Student's t of 2 degrees of freedom.

    t = (2u - 1) / sqrt(2u (1 - u)). In elliptical distributions with heavy tails, x and y depend on
    each other through a radius. Normal scores distort this radius; these scores keep it.
    """
    square = (2 * share - 1) ** 2 / (2 * share * (1 - share))
    return np.asarray(np.log(square.sum(1, keepdims=True) + 1e-9))


def waves(reference: Array, scores: Array) -> Array:
    """Scores [n, d] times 1, cos t and sin t, [n, 3 d], where t is the squared radius, scaled so
    that its 99% quantile is pi. Linear combinations of these include rotations and stretchings that
    grow with the radius, as in spirals. `reference` are scores, too.
    """
    known, square = ((side**2).sum(1, keepdims=True) for side in (reference, scores))
    t = np.pi * np.minimum(square / np.quantile(known, 0.99), 1.2)
    return np.concatenate([scores, np.cos(t) * scores, np.sin(t) * scores], 1)


def curves(share: Array) -> Array:
    """cos(pi k u) of ranks [n, 1], k = 1 … 8, [n, 8]: steep functions of a single number."""
    return np.asarray(np.sqrt(2) * np.cos(np.pi * np.arange(1, 9) * share))


def features(reference: Array, x: Array, scores: Array) -> Array:
    """The scores, functions of their radius (for dependence through the radius, such as in
    elliptical distributions and spirals), and a one-hot code of every column with few distinct
    values.
    """
    square = (scores**2).sum(1, keepdims=True) / x.shape[1]
    parts = [scores, square - 1, np.log(square + 1e-2)]
    for column in range(x.shape[1]):
        values = np.unique(reference[:, column])
        if len(values) <= SYMBOLS or _labels(values, len(reference)):
            parts.append((x[:, column, None] == values).astype(np.float64))
    return np.concatenate(parts, 1)


def _labels(values: Array, samples: int) -> bool:
    """Whether values are numbers of classes: whole, not many, and each occurs often."""
    few = len(values) <= min(LABELS, samples / EACH)
    return few and bool((values == np.round(values)).all())
