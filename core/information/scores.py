"""Scores of pairs against candidates, tile by tile, for millions of candidates.

n = anchors, m = negatives of each, D = code dimensions. The critics are inner products of codes,
f(x, y) = scale <q(x), k(y)>. This includes bilinear forms, functions of x or y alone, and the log
density of a diagonal Gaussian. `of_matrix` takes the scores of any other critic.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from core.information.chunked import slices

ROWS, COLUMNS = 1024, 8192  # of a tile


class Tile(NamedTuple):
    rows: slice  # anchors
    columns: slice  # negatives
    scores: Tensor  # float64 [b, c]; -inf for the row's own pair


class Scores:
    """Sums of f(x_i, y_j) that the bounds need, all float64.

    own [n]: scores of the own pairs. spare [n]: f against one negative. rest [n]: log sum exp f
    over the other m - 1 negatives. The spare one is kept apart because one mean of
    `bounds.alpha_bound` is over the own pair and m - 1 negatives, and the other mean is over all m
    negatives. (A subtraction from the whole sum could underflow.)
    """

    def __init__(
        self, own: Tensor, negatives: int, tiles: Callable[[], Iterable[Tile]], paired: bool
    ):
        self.own, self.negatives, self.paired = own.double(), negatives, paired
        self._tiles = tiles
        n = len(own)
        empty = torch.full((n,), -math.inf, dtype=torch.float64, device=own.device)
        self.rest, self.spare = empty, empty.clone()
        rows = torch.arange(n, device=own.device)
        spared = (rows + 1) % n if paired else torch.zeros_like(rows)
        for tile in tiles():
            place = spared[tile.rows] - tile.columns.start
            here = ((place >= 0) & (place < tile.scores.shape[1])).nonzero()[:, 0]
            self.spare[tile.rows][here] = tile.scores[here, place[here]]
            tile.scores[here, place[here]] = -math.inf
            self.rest[tile.rows] = torch.logaddexp(self.rest[tile.rows], tile.scores.logsumexp(1))

    @property
    def others(self) -> Tensor:
        """log sum exp f over all m negatives [n]."""
        return torch.logaddexp(self.rest, self.spare)

    def received(self, weight: Tensor) -> Tensor:
        """log sum_{i != j} exp(f(x_i, y_j) + w_i) [n] for each key j; needs paired scores."""
        if not self.paired:
            raise ValueError("scores: only paired keys are candidates of each other")
        total = torch.full_like(self.own, -math.inf)
        for tile in self._tiles():
            found = (tile.scores + weight[tile.rows, None]).logsumexp(0)
            total[tile.columns] = torch.logaddexp(total[tile.columns], found)
        return total

    def mean(self) -> Tensor:
        """The mean score of each anchor's negatives [n]."""
        total = torch.zeros_like(self.own)
        for tile in self._tiles():
            total[tile.rows] += tile.scores.masked_fill(tile.scores == -math.inf, 0).sum(1)
        return total / self.negatives

    def largest(self) -> float:
        """The largest score of a negative."""
        return max(tile.scores.max().item() for tile in self._tiles())

    def transposed(self) -> "Scores":
        """The scores with keys as anchors and anchors as keys; needs paired scores."""
        if not self.paired:
            raise ValueError("scores: only paired scores have a transpose")

        def tiles() -> Iterator[Tile]:
            return (Tile(t.columns, t.rows, t.scores.T.contiguous()) for t in self._tiles())

        return Scores(self.own, self.negatives, tiles, paired=True)

    def shifted(self, offset: float) -> "Scores":
        """f + offset, from the existing sums."""
        made = object.__new__(Scores)
        made.own, made.rest, made.spare = self.own + offset, self.rest + offset, self.spare + offset
        made.negatives, made.paired = self.negatives, self.paired
        made._tiles = lambda: (Tile(t.rows, t.columns, t.scores + offset) for t in self._tiles())
        return made

    def clipped(self, limit: float) -> "Scores":
        """The scores with negatives clamped to [-limit, limit]; own pairs are unchanged."""

        def tiles() -> Iterator[Tile]:
            for rows, columns, scores in self._tiles():
                clamped = scores.clamp(-limit, limit)
                yield Tile(rows, columns, torch.where(scores == -math.inf, scores, clamped))

        return Scores(self.own, self.negatives, tiles, self.paired)


def paired(query: Tensor, key: Tensor, scale: float = 1.0) -> Scores:
    """The scores of n pairs of codes [n, D]. Negatives are the keys of all other pairs."""

    def tiles() -> Iterator[Tile]:
        for rows in slices(len(query), ROWS):
            for columns in slices(len(key), COLUMNS):
                scores = (query[rows] @ key[columns].T).double() * scale
                yield _without_own(Tile(rows, columns, scores))

    return Scores(_own(query, key, scale), len(key) - 1, tiles, paired=True)


def of_matrix(scores: Tensor) -> Scores:
    """The scores in a matrix [n, n], with f(x_i, y_j) in row i and column j."""
    whole = slice(0, len(scores))

    def tiles() -> list[Tile]:
        return [_without_own(Tile(whole, whole, scores.double().clone()))]

    return Scores(scores.diagonal(), len(scores) - 1, tiles, paired=True)


def against(
    query: Tensor,
    key: Tensor,
    negatives: Callable[[], Iterable[Tensor]],
    count: int,
    scale: float = 1.0,
) -> Scores:
    """The scores of pairs of codes [n, D] against `count` shared negatives, in blocks [c, D]."""

    def tiles() -> Iterator[Tile]:
        start = 0
        for block in negatives():
            for columns in slices(len(block), COLUMNS):
                for rows in slices(len(query), ROWS):
                    scores = (query[rows] @ block[columns].T).double() * scale
                    yield Tile(rows, slice(start + columns.start, start + columns.stop), scores)
            start += len(block)
        if start != count:
            raise ValueError(f"negatives: got {start}, but `count` is {count}")

    return Scores(_own(query, key, scale), count, tiles, paired=False)


def gaussian(mean: Tensor, sigma: Tensor, z: Tensor) -> Scores:
    """log q(z_i | x_j) of diagonal Gaussians: codes z_i against images x_j; mean, sigma, z [n, L].

    The quadratic form is written as inner products in float64, so no [n, n, L] is needed.
    """
    mean, sigma, z = mean.double(), sigma.double(), z.double()
    precision = sigma.pow(-2)
    constant = -0.5 * (mean**2 * precision).sum(1) - sigma.log().sum(1)
    constant = constant - 0.5 * z.shape[1] * math.log(2 * math.pi)
    return paired(
        torch.cat([z, -0.5 * z**2, torch.ones_like(z[:, :1])], 1),
        torch.cat([mean * precision, precision, constant[:, None]], 1),
    )


def _own(query: Tensor, key: Tensor, scale: float) -> Tensor:
    return (query * key).sum(1).double() * scale


def _without_own(tile: Tile) -> Tile:
    """Set the scores of own pairs to -inf, so that sums contain only negatives."""
    row, column = tile.rows.start, tile.columns.start
    first, last = max(row, column), min(tile.rows.stop, tile.columns.stop)
    if first < last:
        square = tile.scores[first - row : last - row, first - column : last - column]
        square.fill_diagonal_(-math.inf)
    return tile
