"""Whether neighbouring rows are alike, as in a time series. n = rows, d = columns."""

import math

import numpy as np
from scipy.stats import rankdata

from probes.samples.pairs import Side

ROWS = 2**14  # at the start of the file; only these are read
COLUMNS = 256  # of images, at most
LEAST = 0.1  # correlation of neighbours
DEVIATIONS = 4.0  # a correlation of n independent rows has the standard deviation 1 / sqrt(n)


def said_of_order(x: Side, y: Side) -> str:
    """A remark if neighbouring rows are alike both in x and in y; else "".

    Cross-fitting needs independent rows. In a time series, a critic that trained on a row knows its
    neighbours, too, so a bound can be far above the truth: two independent random walks seem to
    share information. A sorted file of independent rows looks the same, so this is only a remark.
    """
    if not (_alike(x) and _alike(y)):
        return ""
    return (
        "neighbouring rows are alike in x and in y, as in a time series or in a sorted file; if"
        " rows depend on each other, the value is too high: keep only rows that are far apart"
    )


def _alike(side: Side) -> bool:
    """Whether the ranks of at least one column are correlated from row to row. The limit is so high
    that independent rows hardly exceed it in any column.
    """
    values = side[:ROWS].reshape(len(side[:ROWS]), -1)
    if side.ndim > 2:
        values = values[:, :: math.ceil(values.shape[1] / COLUMNS)]
    ranks = rankdata(values, axis=0)
    ranks -= ranks.mean(0)
    spread = (ranks**2).sum(0)
    columns = spread > 0
    products = (ranks[1:] * ranks[:-1]).sum(0)[columns]
    limit = (DEVIATIONS + math.sqrt(2 * math.log(values.shape[1]))) / math.sqrt(len(values))
    return bool(np.any(products > max(LEAST, limit) * spread[columns]))
