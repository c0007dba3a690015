"""A critic for two numbers: the logarithm of their smoothed joint distribution, as a table.

u, v = ranks of two numbers, in (0, 1); G = cells of an axis.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
CELLS = 96
WIDTHS = (0.012, 0.02, 0.035, 0.06, 0.1, 0.2)  # of the kernel, as a share of the axis
FLOOR = 1e-3  # share of the mean density, added because an empty cell is not impossible


class Table(NamedTuple):
    """log c(u, v) at the centres of G x G cells; c is the density of the pair divided by that of
    independent ranks.
    """

    logs: Array

    def codes(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Codes [n, G] of ranks [n], whose inner product interpolates the table bilinearly."""
        return _corners(u) @ self.logs, _corners(v)


def table(u: Array, v: Array) -> Table:
    """The table of training pairs of ranks [n]. To choose the width of its kernel, every fifth pair
    is held out, and a table of the other pairs is made with each width. The width with the largest
    mean of log c on the held-out pairs is chosen. The kernel is stretched along the diagonal as
    much as the pairs are, so that it can be narrow across the diagonal.
    """
    held, slant = np.arange(len(u)) % 5 == 4, 0.98 * float(np.corrcoef(u, v)[0, 1])
    tried = [Table(_smoothed(u[~held], v[~held], width, slant)) for width in WIDTHS]
    values = []
    for made in tried:
        first, second = made.codes(u[held], v[held])
        values.append(float((first * second).sum(1).mean()))
    return Table(_smoothed(u, v, WIDTHS[int(np.argmax(values))], slant))


def _smoothed(u: Array, v: Array, width: float, slant: float) -> Array:
    """The logarithm of the histogram after a Gaussian kernel, with marginals made uniform."""
    counts, _, _ = np.histogram2d(u, v, bins=CELLS, range=[[0, 1], [0, 1]])
    spread = (width * CELLS) ** 2 / math.sqrt(1 - slant**2)
    row, column = np.fft.fftfreq(2 * CELLS)[:, None], np.fft.rfftfreq(2 * CELLS)
    power = row**2 + column**2 + 2 * slant * row * column
    kernel = np.exp(-2 * np.pi**2 * spread * power)  # the covariance is spread [[1, s], [s, 1]]

    def blurred(cells: Array) -> Array:
        whole = np.fft.irfft2(np.fft.rfft2(cells, s=(2 * CELLS,) * 2) * kernel, s=(2 * CELLS,) * 2)
        return np.asarray(whole[:CELLS, :CELLS])

    inside = np.maximum(blurred(np.ones_like(counts)), 1e-3)  # the kernel's share in the square
    density = np.maximum(blurred(counts), 0) / inside + FLOOR * counts.mean()
    for _ in range(10):
        density /= density.mean(1, keepdims=True)
        density /= density.mean(0, keepdims=True)
    return np.asarray(np.log(density))


def _corners(u: Array) -> Array:
    """The weights [n, G] of the two cells whose centres are next to u [n]."""
    place = np.clip(u * CELLS - 0.5, 0, CELLS - 1 - 1e-9)
    cell, row = place.astype(np.int64), np.arange(len(u))
    weights = np.zeros((len(u), CELLS))
    weights[row, cell], weights[row, cell + 1] = 1 - (place - cell), place - cell
    return weights
