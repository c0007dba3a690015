"""Codecs of codes z under each prior. Cells on a grid are pushed in an order in which they can be
popped dimension by dimension.

B = images, L = latent dimensions, K = pseudo-inputs.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import UserError
from vae import exact
from vae.ans import MOST_BITS, Counts, Stack
from vae.grid import FINE, LOWEST, SIGMAS, TOTAL, Grid, Ints, Normals, inverse_sigmas, search
from vae.priors import FlowPrior, Prior, StandardNormal, VampPrior

Codes = NDArray[np.float64]

WEIGHT = 2.0**22  # whole-number weight of the likeliest component of a mixture


class PriorCodec(ABC):
    """Pushes and pops cells [B, L] under p(z)."""

    ordered = True  # whether dimensions can be popped only in the order 1 ... L

    def __init__(self, prior: Any, latent: int):
        self.prior, self.latent = prior, latent

    @abstractmethod
    def push(self, stack: Stack, grid: Grid, cells: Ints) -> None: ...

    @abstractmethod
    def pop(self, stack: Stack, grid: Grid, count: int) -> Ints: ...

    @abstractmethod
    def cost(self, grid: Grid, cells: Ints) -> Codes:
        """The bits [B, L] of each dimension, given those before it."""

    @abstractmethod
    def expected(self, z: Codes, known: NDArray[np.bool_]) -> Codes:
        """Codes [B, L] in which the unknown dimensions are replaced by their means, given the known
        ones (`known` [L]). If `ordered`, the known dimensions come first.
        """


class StandardCodec(PriorCodec):
    """N(0, I): all dimensions at once."""

    ordered = False

    def push(self, stack: Stack, grid: Grid, cells: Ints) -> None:
        grid.push(stack, cells.ravel(), grid.standard(np.zeros(cells.shape)))

    def pop(self, stack: Stack, grid: Grid, count: int) -> Ints:
        normals = grid.standard(np.zeros((count, self.latent)))
        return grid.pop(stack, normals).reshape(count, self.latent)

    def cost(self, grid: Grid, cells: Ints) -> Codes:
        normals = grid.standard(np.zeros(cells.shape))
        return grid.cost(cells.ravel(), normals).reshape(cells.shape)

    def expected(self, z: Codes, known: NDArray[np.bool_]) -> Codes:
        return np.where(known, z, 0.0)


class FlowCodec(PriorCodec):
    """N(m_i(z_<i), 1) for one dimension after another."""

    def means(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.prior.means(torch.from_numpy(z)).numpy()  # type: ignore[no-any-return]

    def push(self, stack: Stack, grid: Grid, cells: Ints) -> None:
        means = self.means(grid.codes(cells))
        for i in reversed(range(self.latent)):
            grid.push(stack, cells[:, i], grid.standard(means[:, i]))

    def pop(self, stack: Stack, grid: Grid, count: int) -> Ints:
        cells, z = np.zeros((count, self.latent), np.int64), np.zeros((count, self.latent))
        for i in range(self.latent):
            cells[:, i] = grid.pop(stack, grid.standard(self.means(z)[:, i]))
            z[:, i] = grid.codes(cells[:, i])
        return cells

    def cost(self, grid: Grid, cells: Ints) -> Codes:
        normals = grid.standard(self.means(grid.codes(cells)))
        return grid.cost(cells.ravel(), normals).reshape(cells.shape)

    def expected(self, z: Codes, known: NDArray[np.bool_]) -> Codes:
        z = z.copy()
        for i in np.nonzero(~known)[0]:
            z[:, i] = self.means(z)[:, i]
        return z


class VampCodec(PriorCodec):
    """The mixture's conditionals p(z_i | z_<i) = sum_k w_k(z_<i) N(z_i; m_ki, sigma_ki).

    Weights are rounded to whole numbers before they are added, so that the order of adding does not
    matter.
    """

    def _parts(self, grid: Grid) -> tuple[Ints, Ints]:
        """Rounded means and log sigmas of the components, [K, L] each."""
        normal = self.prior().component_distribution.base_dist
        mean, sigma = normal.loc.numpy(), normal.scale.log().numpy()
        rounded = grid.rounded(mean, sigma)
        return rounded.mean.reshape(mean.shape), rounded.sigma.reshape(mean.shape)

    def push(self, stack: Stack, grid: Grid, cells: Ints) -> None:
        for low, high in reversed(self._counts(grid, cells)):
            stack.push(low.astype(np.uint64), (high - low).astype(np.uint64), MOST_BITS)

    def cost(self, grid: Grid, cells: Ints) -> Codes:
        counts = [high - low for low, high in self._counts(grid, cells)]
        return MOST_BITS - np.log2(np.stack(counts, 1).astype(np.float64))

    def expected(self, z: Codes, known: NDArray[np.bool_]) -> Codes:
        normal = self.prior().component_distribution.base_dist
        mean, sigma = normal.loc.numpy(), normal.scale.numpy()
        t = ((z[:, None] - mean) / sigma)[..., known]
        logs = (t**2 / -2 - np.log(sigma[:, known])).sum(2)
        weights = np.exp(logs - logs.max(1, keepdims=True))
        return np.where(known, z, weights @ mean / weights.sum(1, keepdims=True))

    def _counts(self, grid: Grid, cells: Ints) -> list[tuple[Ints, Ints]]:
        """C at both edges of the cells [B], for each dimension."""
        mean, sigma = self._parts(grid)
        logs, found = np.zeros((len(cells), len(mean))), []
        for i in range(self.latent):
            mixture = Mixture(grid, mean[:, i], sigma[:, i], logs)
            found.append((mixture.counts(cells[:, i]), mixture.counts(cells[:, i] + 1)))
            logs = mixture.given(cells[:, i])
        return found

    def pop(self, stack: Stack, grid: Grid, count: int) -> Ints:
        mean, sigma = self._parts(grid)
        logs, cells = np.zeros((count, len(mean))), np.zeros((count, self.latent), np.int64)
        for i in range(self.latent):
            mixture = Mixture(grid, mean[:, i], sigma[:, i], logs)
            cells[:, i] = stack.pop(count, MOST_BITS, mixture.find)
            logs = mixture.given(cells[:, i])
        return cells


class Mixture:
    """One dimension of a mixture of K normals, with log weights [B, K] up to a constant."""

    def __init__(self, grid: Grid, mean: Ints, sigma: Ints, logs: NDArray[np.float64]):
        self.grid, self.normals, self.logs = grid, Normals(mean, sigma), logs
        top = logs - logs.max(1, keepdims=True)
        self.weights = np.rint(exact.exp(np.maximum(top, -100.0)) * WEIGHT).astype(np.int64)

    def counts(self, edges: Ints, rows: Any = slice(None)) -> Ints:
        """C at edges [B], as in `vae.grid`."""
        share = np.floor(exact.normal_cdf(self._t(edges * FINE)) * float(TOTAL)).astype(np.int64)
        weights = self.weights[rows]
        mixed = (weights * share).sum(1) // weights.sum(1)
        counts = (mixed * (TOTAL - self.grid.cells) >> MOST_BITS) + edges
        counts[edges <= 0] = 0
        counts[edges >= self.grid.cells] = TOTAL
        return counts

    def find(self, u: Counts, row: slice) -> tuple[Ints, Counts, Counts]:
        wanted, places = u.astype(np.int64), np.arange(row.start, row.stop)
        middle = np.full(len(u), self.grid.cells // 2)
        return search(
            wanted, middle, self.grid.cells, lambda edges, rows: self.counts(edges, places[rows])
        )

    def given(self, cells: Ints) -> NDArray[np.float64]:
        """The log weights of the next dimension, given the cells [B] of this one."""
        t = self._t(cells * FINE + FINE // 2)
        density = (t * t) * -0.5 - self.normals.sigma / float(SIGMAS)
        return self.logs + density

    def _t(self, steps: Ints) -> NDArray[np.float64]:
        centred = steps[:, None] - (self.grid.cells // 2) * FINE - self.normals.mean
        return centred * inverse_sigmas(self.grid.spacing)[self.normals.sigma - LOWEST]


KINDS: dict[type[Prior], type[PriorCodec]] = {
    StandardNormal: StandardCodec,
    FlowPrior: FlowCodec,
    VampPrior: VampCodec,
}


def prior_codec(prior: Prior, latent: int) -> PriorCodec:
    """The codec of a prior; `UserError` for a prior that has none."""
    if type(prior) not in KINDS:
        raise UserError(f"model.prior: a {type(prior).__name__} has no codec")
    return KINDS[type(prior)](prior, latent)
