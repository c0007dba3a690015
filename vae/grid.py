"""Gaussian codes on a grid: the cells of a latent dimension, and integer counts of normals on them.

With D = 2^-spacing, there are N = 2^(spacing + reach + 1) cells, and cell k begins at
-2^reach + k D. A code lies in the middle of its cell. Of all 2^28 counts, a normal gives
C(k + 1) - C(k) to cell k, where

    a posterior   C(k) = floor(Phi((edge_k - mu) / sigma) 2^28)
    a prior       C(k) = floor(Phi((edge_k - mu) / sigma) (2^28 - N)) + k,

so under a prior every cell has at least one count. Under a posterior a cell may have none: codes
are drawn with exactly these counts, so such a cell is never drawn. The outer two cells include the
tails. The mean mu is rounded to D / 16 and log sigma to 1/64, which costs about 4e-5 nats per
dimension. m = cells of a call, n = images, L = latent dimensions.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vae import exact
from vae.ans import MOST_BITS, Broken, Counts, Find, Stack

Ints = NDArray[np.int64]

FINE = 16  # steps of a mean in a cell
SIGMAS = 64  # steps of log sigma in a nat
LOWEST, HIGHEST = -7 * SIGMAS, 3 * SIGMAS  # the range of the networks' log sigma
MOST_CELLS = 20  # log2
TOTAL = 1 << MOST_BITS


class Normals(NamedTuple):
    """Rounded normals: means in steps of D / 16, log sigmas in steps of 1 / 64, int64 [m] each."""

    mean: Ints
    sigma: Ints
    least: int = 0  # the lowest number of counts of a cell: 0 for a posterior, 1 for a prior

    def at(self, rows: Any) -> "Normals":
        return Normals(self.mean[rows], self.sigma[rows], self.least)


class Grid(NamedTuple):
    """A grid of cells of side 2^-spacing over [-2^reach, 2^reach)."""

    spacing: int
    reach: int

    @property
    def cells(self) -> int:
        return 1 << (self.spacing + self.reach + 1)

    def is_valid(self) -> bool:
        """Whether the grid has a size that the counts allow."""
        inside = 0 <= self.spacing <= 16 and 0 <= self.reach <= 10
        return inside and self.spacing + self.reach < MOST_CELLS

    @classmethod
    def for_codes(cls, mean: Any, log_sigma: Any, fineness: int = 3) -> "Grid":
        """A grid for posteriors [n, L]. The side of a cell is about 2^-fineness times the 1%
        quantile of sigma over all images and dimensions. The grid is at least twice as wide as
        these means need. A limit on the number of cells has priority over both.
        """
        sharp = float(np.quantile(log_sigma, 0.01)) / math.log(2)
        spacing = min(12, max(0, math.ceil(fineness - sharp)))
        far = 2 * (float(np.abs(mean).max()) + 5.0)
        most = min(8, MOST_CELLS - 1 - spacing)
        return cls(spacing, min(most, max(3, math.ceil(math.log2(far)))))

    def rounded(self, mean: Any, log_sigma: Any) -> Normals:
        """Normals with float64 means and log sigmas, rounded; both are flattened."""
        edge = FINE * (self.cells // 2)
        steps = np.rint(np.asarray(mean, np.float64) * float(FINE << self.spacing))
        sigma = np.rint(np.asarray(log_sigma, np.float64) * SIGMAS)
        return Normals(
            np.clip(steps, -edge, edge).astype(np.int64).ravel(),
            np.clip(sigma, LOWEST, HIGHEST).astype(np.int64).ravel(),
        )

    def standard(self, mean: Any) -> Normals:
        """Priors of deviation 1 with these float64 means."""
        return self.rounded(mean, np.zeros_like(mean))._replace(least=1)

    def codes(self, cells: Ints) -> NDArray[np.float64]:
        """The middle of each cell."""
        return np.ldexp(2.0 * cells + (1 - self.cells), -self.spacing - 1)

    def push(self, stack: Stack, cells: Ints, normals: Normals, veil: Counts | None = None) -> None:
        """Push cells [m], each under its normal; `Broken` for a cell that has no counts."""
        low, high = self._counts(cells, normals), self._counts(cells + 1, normals)
        if (high == low).any():
            raise Broken("a code has no probability")
        stack.push(low.astype(np.uint64), (high - low).astype(np.uint64), MOST_BITS, veil)

    def pop(self, stack: Stack, normals: Normals, veil: Counts | None = None) -> Ints:
        """Pop cells [m], each under its normal."""
        return stack.pop(len(normals.mean), MOST_BITS, self._finder(normals), veil)

    def cost(self, cells: Ints, normals: Normals) -> NDArray[np.float64]:
        """The bits [m] of the cells under their normals."""
        counts = self._counts(cells + 1, normals) - self._counts(cells, normals)
        return float(MOST_BITS) - np.log2(counts.astype(np.float64))

    def _counts(self, edges: Ints, normals: Normals) -> Ints:
        """C at edges 0 ... N."""
        steps = (edges - self.cells // 2) * FINE - normals.mean
        t = steps * inverse_sigmas(self.spacing)[normals.sigma - LOWEST]
        shared = TOTAL - normals.least * self.cells
        counts = np.floor(exact.normal_cdf(t) * float(shared)).astype(np.int64)
        counts += normals.least * edges
        counts[edges <= 0] = 0
        counts[edges >= self.cells] = TOTAL
        return counts

    def _finder(self, normals: Normals) -> Find:
        inverse = inverse_sigmas(self.spacing)

        def find(u: Counts, row: slice) -> tuple[Ints, Counts, Counts]:
            own = normals.at(row)
            wanted = u.astype(np.int64)
            guess = first_guess(wanted, own, inverse, self.cells)
            return search(
                wanted, guess, self.cells, lambda edges, rows: self._counts(edges, own.at(rows))
            )

        return find


def inverse_sigmas(spacing: int) -> NDArray[np.float64]:
    """D / (16 sigma) for each log sigma, a factor that turns a distance in steps of D / 16
    into a distance in sigmas.
    """
    if spacing not in _INVERSE:
        logs = np.arange(LOWEST, HIGHEST + 1) / -float(SIGMAS)
        _INVERSE[spacing] = exact.exp(logs) * (2.0**-spacing / FINE)
    return _INVERSE[spacing]


_INVERSE: dict[int, NDArray[np.float64]] = {}


def first_guess(u: Ints, normals: Normals, inverse: NDArray[np.float64], cells: int) -> Ints:
    """A cell near the one that owns u. The guess need not be exact, so any math library
    may compute it.
    """
    from scipy.special import ndtri

    t = ndtri((u + 0.5) / TOTAL)
    steps = normals.mean + t / inverse[normals.sigma - LOWEST]
    return np.clip(np.floor(steps / FINE) + cells // 2, 0, cells - 1).astype(np.int64)


def search(u: Ints, guess: Ints, cells: int, counts: Any) -> tuple[Ints, Counts, Counts]:
    """The cells that own the counts u [m], with their starts and freqs.

    `counts(edges, rows)` gives C at edges for these rows of its parameters. Most cells are found
    within two steps from the guess, the others by bisection.
    """
    cell, everything = guess, slice(None)
    for _ in range(3):
        low, high = counts(cell, everything), counts(cell + 1, everything)
        move = (u >= high).astype(np.int64) - (u < low)
        if not move.any():
            return cell, low.astype(np.uint64), (high - low).astype(np.uint64)
        cell = cell + move
    far = np.nonzero(move)[0]
    left, right = np.zeros(len(far), np.int64), np.full(len(far), cells)
    while (right - left > 1).any():
        middle = (left + right) // 2
        above = u[far] >= counts(middle, far)
        left, right = np.where(above, middle, left), np.where(above, right, middle)
    cell[far] = left
    low, high = counts(cell, everything), counts(cell + 1, everything)
    return cell, low.astype(np.uint64), (high - low).astype(np.uint64)
