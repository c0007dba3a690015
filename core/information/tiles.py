"""In-batch InfoNCE, tile by tile: each tile of scores serves its rows and, transposed, its columns; no matrix of all scores is held.

    L = mean_i log(1 + sum_{c negative of i} exp(s_ic - s_i+)),   s_ij = scale <x_i, y_j>

A first pass over the tiles gives the sums, a second computes each tile again and turns it into the gradient of both its sides.
B = pairs on this process, W = processes, V = 2 where both views are rows and columns (NT-Xent), 1 where the rows are one view and the
columns the other (CLIP), D = dimensions. Row v B + i is view v of pair i; column (w W + q) B + j is view w of pair j of process q.
"""

from core.information.streaming import LOG2E, slices
from core.product import product

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ON_CPU, ON_GPU = 1024, 4096  # rows and columns of a tile: on a CPU it stays in the cache
KEPT = 3 * 2**21  # exponentials that the first pass keeps for the second, 24 MiB: small batches whole, of large ones some tiles
SAFE = 100  # exp2 of scores up to here neither overflows nor underflows in float32, nor do sums of 2^27 of them


class Layout(NamedTuple):
    """Who is a candidate of whom. `both`: columns are anchors of the rows, too (V = 1, W = 1)."""

    pairs: int  # B
    views: int  # V
    world: int = 1  # W
    rank: int = 0
    both: bool = False

    @property
    def square(self) -> bool:
        """Rows and columns are the same codes, so the upper triangle of tiles is enough."""
        return self.views == 2 and self.world == 1

    def positives(self) -> list[tuple[slice, slice]]:
        """The rows of each view, and the columns that hold their positives."""
        n, blocks = self.pairs, [(self.views - 1 - view) * self.world + self.rank for view in range(self.views)]
        return [(slice(n * view, n * view + n), slice(n * block, n * block + n)) for view, block in enumerate(blocks)]


class Tile(NamedTuple):
    rows: slice
    columns: slice
    excluded: bool  # own codes or positives are on its diagonal
    other: bool  # columns are of the other view than rows
    symmetric: bool  # on the diagonal of a square
    mirrored: bool  # its columns are anchors of its rows

    @property
    def corner(self) -> tuple[int, int]:
        return self.rows.start, self.columns.start


def tiles(layout: Layout, size: int) -> Iterator[Tile]:
    """Every tile, of a square those of the upper triangle. Own codes and positives are on the diagonals of tiles."""
    pairs, views, world, rank, both = layout
    for row_view in range(views):
        for rows in _cut(row_view * pairs, pairs, size):
            for column_view in range(views):
                first, here, there = column_view * world * pairs, rank * pairs, (world - rank - 1) * pairs
                mine = _cut(first + here, pairs, size)
                for columns in _cut(first, here, size) + mine + _cut(first + here + pairs, there, size):
                    if layout.square and columns.start < rows.start:
                        continue
                    aligned = columns.start - first - here == rows.start - row_view * pairs
                    symmetric = layout.square and rows == columns
                    mirrored = (layout.square or both) and not symmetric
                    yield Tile(rows, columns, aligned, views == 1 or row_view != column_view, symmetric, mirrored)


def _cut(start: int, length: int, size: int) -> list[slice]:
    return [slice(start + part.start, start + part.stop) for part in slices(length, size)]


class InBatch(torch.autograd.Function):
    """rows [V B, D], columns [V W B, D], scale and layout to the loss and, detached, the loss against the other view alone (N candidates).

    The gradient is computed with the loss and kept, O((rows + columns) D). There is no second derivative.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, scale: float, layout: Layout) -> tuple[Tensor, Tensor]:
        wanted = any(ctx.needs_input_grad[:2])
        scored = _Scored(rows, columns, scale, layout, KEPT if wanted else 0)
        loss, one_sided = (x.to(rows.dtype) for x in scored.losses())
        if wanted:
            ctx.save_for_backward(*scored.gradients())
        ctx.mark_non_differentiable(one_sided)
        return loss, one_sided

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows, columns = ctx.saved_tensors
        return rows * grad, columns * grad, None, None


class _Scored:
    """The scores of a batch, summed: for every anchor the log of the sum over its negatives, in powers of two and float64.

    The anchors are the rows, in `both` the columns as well, and of a square the columns are the rows.
    """

    def __init__(self, rows: Tensor, columns: Tensor, scale: float, layout: Layout, keep: int):
        self.rows, self.columns, self.scale, self.layout, self.keep = rows, columns, scale, layout, keep
        on_cpu = rows.device.type == "cpu"
        self.tiles = list(tiles(layout, ON_CPU if on_cpu else ON_GPU))
        self.scaled = rows * (scale * LOG2E)
        # Asking a GPU for the largest norm would make it wait; there every tile takes its maxima out.
        self.safe = on_cpu and (self.scaled.norm(dim=1).max() * columns.norm(dim=1).max()).item() < SAFE
        self.kept: dict[tuple[int, int], Tensor] = {}
        self.own = torch.cat([(rows[here].double() * columns[there].double()).sum(1) for here, there in layout.positives()]) * (
            scale * LOG2E
        )
        of_rows = self.own.new_full((2, len(rows)), -math.inf)  # among negatives of its own view, of the other view
        of_columns = of_rows if layout.square else self.own.new_full((2, len(columns)), -math.inf)
        for tile in self.tiles:
            for sums, place, found in zip((of_rows, of_columns), (tile.rows, tile.columns), self._log_sums(tile), strict=False):
                sums[int(tile.other), place] = torch.logaddexp2(sums[int(tile.other), place], found)
        self.anchors = [of_rows, of_columns] if layout.both else [of_rows]

    def losses(self) -> tuple[Tensor, Tensor]:
        """Means over the anchors, in nats: against all candidates, and against those of the other view alone."""
        everyone = torch.stack([torch.logaddexp2(*sums) for sums in self.anchors])
        others = torch.stack([sums[1] for sums in self.anchors])
        return _softplus(everyone - self.own).mean(), _softplus(others - self.own).mean()

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Of the loss, with respect to rows and columns: sums over tiles of W y and W^T x, W = dL/ds, and the positives' share."""
        everyone = [torch.logaddexp2(*sums) for sums in self.anchors]
        totals = [torch.logaddexp2(negatives, self.own) for negatives in everyone]
        of_rows, of_columns = totals[0], totals[-1]  # of a square the same
        d_rows = torch.zeros_like(self.rows)
        d_columns = torch.zeros_like(self.columns.T, memory_format=torch.contiguous_format)  # transposed: W^T x is slow, x^T W is not
        for tile in self.tiles:
            weights = self._weights(tile, of_rows[tile.rows], of_columns[tile.columns] if tile.symmetric or tile.mirrored else None)
            d_rows[tile.rows] += product(weights, self.columns[tile.columns].T)
            if not tile.symmetric:  # W is symmetric, so both sides are in d_rows
                d_columns[:, tile.columns] += product(self.rows[tile.rows].T, weights.T)
            del weights  # before the next tile asks for its own, which then gets the same memory, still in the cache
        # The positive's weight is its probability minus one, taken from the negatives' sum so that no digit is lost where it is near zero.
        missing = torch.stack([torch.sigmoid((negatives - self.own) / LOG2E) for negatives in everyone]).sum(0).to(self.rows.dtype)[:, None]
        for here, there in self.layout.positives():
            d_rows[here] -= missing[here] * self.columns[there]
            d_columns[:, there] -= (missing[here] * self.rows[here]).T
        share = self.scale / (len(self.anchors) * len(self.rows))
        return d_rows.mul_(share), d_columns.mul_(share).T.contiguous()  # gather passes memory on as it lies

    def _scores(self, tile: Tile) -> Tensor:
        scores = product(self.scaled[tile.rows], self.columns[tile.columns])
        return scores.fill_diagonal_(-math.inf) if tile.excluded else scores

    def _log_sums(self, tile: Tile) -> list[Tensor]:
        """The log of the sum over each row and, of a mirrored tile, each column."""
        scores = self._scores(tile)
        if not self.safe:
            return [_logsumexp2(scores, 1), *([_logsumexp2(scores, 0)] if tile.mirrored else [])]
        scores.exp2_()
        if sum(map(Tensor.numel, self.kept.values())) + scores.numel() <= self.keep:
            self.kept[tile.corner] = scores
        return [scores.sum(1).double().log2(), *([(scores.T @ scores.new_ones(len(scores))).double().log2()] if tile.mirrored else [])]

    def _weights(self, tile: Tile, of_rows: Tensor, of_columns: Tensor | None) -> Tensor:
        """dL/ds of a tile, times the number of anchors: p(column | row) and, where the column is an anchor too, + p(row | column)."""
        dtype = self.rows.dtype
        if self.safe:
            weights = self.kept.pop(tile.corner) if tile.corner in self.kept else self._scores(tile).exp2_()
            inverse = torch.exp2(-of_rows).to(dtype)[:, None]
            return weights.mul_(inverse if of_columns is None else inverse + torch.exp2(-of_columns).to(dtype))
        weights = _probabilities(self._scores(tile), of_rows[:, None])
        if tile.symmetric:  # s_ij and s_ji differ in rounding, and each goes with its own total
            return weights + weights.T
        return weights if of_columns is None else weights.add_(_probabilities(self._scores(tile), of_columns))


def _probabilities(scores: Tensor, total: Tensor) -> Tensor:
    """2^(s - total), in place. Large scores are near a large total: its leading digits go first, and the difference keeps the others."""
    leading = total.to(scores.dtype)
    return scores.sub_(leading).sub_((total - leading).to(scores.dtype)).exp2_()


def _logsumexp2(scores: Tensor, dim: int) -> Tensor:
    top = scores.amax(dim, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)  # where nothing is a candidate the sum is zero
    return torch.exp2(scores - top).sum(dim).double().log2() + top.squeeze(dim)


def _softplus(x: Tensor) -> Tensor:
    """log(1 + 2^x), exact at both ends."""
    return torch.logaddexp(x / LOG2E, torch.zeros_like(x))
