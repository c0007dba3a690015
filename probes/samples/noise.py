"""A critic for two numbers: one is a linear function of the other plus independent noise, whose
density may have edges. All other critics of vectors read ranks; this one also reads the values.

n = pairs, u, v = ranks of two numbers, in (0, 1); G = cells of an axis, B = bins.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
CELLS = 256
BINS = (4, 8, 16, 32, 64, 128)  # of the noise's density
FLOOR = 1e-3  # added to the density (mean 1), because an empty cell is not impossible
WIDEST = 50.0  # quartile ranges from the median; values farther away are moved to this limit


class Cells(NamedTuple):
    """A table [G, G] of log p(x, y) / p(x) p(y), and the cells [n] of x and of y of all pairs."""

    logs: Array
    of_x: NDArray[np.int16]
    of_y: NDArray[np.int16]

    def turned(self) -> "Cells":
        """The same critic with x and y exchanged."""
        return Cells(self.logs.T, self.of_y, self.of_x)

    def scores(self, rows: NDArray[np.int64]) -> Array:
        """The score of each row of x with each row of y, [n, n]."""
        return np.asarray(self.logs[np.ix_(self.of_x[rows], self.of_y[rows])])


def additive(x: Array, y: Array, u: Array, v: Array, used: NDArray[np.int64]) -> Cells:
    """The critic of  y = a + b x + e,  e independent of x, from the pairs `used` of x, y [n]:

        log p(e) / p(y),   p(y) the mean of p(y - a - b x) over x

    The density of e is a histogram, so it can have edges, which the smooth critics blur. (A kernel
    estimate of p(x, y) that is narrow enough for an edge has too few pairs at each place; the
    density of e is estimated from all pairs.) The cells have equal shares of the ranks u, v [n], so
    p(x) and p(y) are uniform on them.
    """
    x, y = _scaled(x, used), _scaled(y, used)
    (spread, both), _ = np.cov(x[used], y[used])
    slope = both / max(spread, 1e-12)
    constant = (y[used] - slope * x[used]).mean()
    edges, shares = _histogram(y[used] - slope * x[used] - constant)
    of_x = np.quantile(x[used], (np.arange(2 * CELLS) + 0.5) / (2 * CELLS))
    of_y = np.quantile(y[used], np.arange(CELLS + 1) / CELLS)
    below = np.interp(of_y - (slope * of_x + constant)[:, None], edges, np.append(0, shares))
    density = np.diff(below, axis=1).reshape(CELLS, 2, CELLS).mean(1) * CELLS + FLOOR
    for _ in range(10):
        density /= density.mean(1, keepdims=True)
        density /= density.mean(0, keepdims=True)
    cells = [np.minimum(share * CELLS, CELLS - 1).astype(np.int16) for share in (u, v)]
    return Cells(np.log(density), cells[0], cells[1])


def _scaled(x: Array, used: NDArray[np.int64]) -> Array:
    """Values in units of the quartile range, without far outliers."""
    low, middle, high = np.quantile(x[used], (0.25, 0.5, 0.75))
    with np.errstate(over="ignore"):
        return np.asarray(np.clip((x - middle) / max(high - low, 1e-300), -WIDEST, WIDEST))


def _histogram(noise: Array) -> tuple[Array, Array]:
    """Edges [B + 1], and the share [B] of the noise below the end of each bin. The number of
    bins with the largest leave-one-out likelihood is chosen.
    """
    n, best, found = len(noise), -np.inf, None
    low, high = noise.min(), noise.max()
    beyond = (high - low) / n  # the expected distance of the least value from an edge
    for bins in BINS:
        counts, edges = np.histogram(noise, bins, (low - beyond, high + beyond))
        others = np.maximum(counts - 1, 0.1) / ((n - 1) * (edges[1] - edges[0]))
        if (now := float(counts @ np.log(others))) > best:
            best, found = now, (edges, counts.cumsum() / n)
    assert found
    return found
