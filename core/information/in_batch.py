"""In-batch InfoNCE, tile by tile, without a matrix of all scores.

    L = mean_i log(1 + sum_{c negative of i} exp(s_ic - s_i+)),   s_ij = scale <x_i, y_j>

A tile of scores is used for its rows and, transposed, for its columns. A first pass over the tiles
gives the sums. A second pass computes each tile again and adds its part to the gradients of rows
and columns. On a GPU, up to `core.information.chunked.AT_ONCE` scores are computed in one piece and
kept.

B = pairs on this process, W = processes, D = dimensions. V = 2 if both views are rows and columns
(NT-Xent), V = 1 if rows are one view and columns the other (CLIP). Rows are [V, B, D], columns
are [V, W B, D]. A block is all views of some pairs. A tile holds the scores of a block of r pairs
with a block of c pairs, as [V r, V c] or, by view, [V, r, V, c]. If both blocks hold the same
pairs, the diagonals hold the scores of each pair with itself.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.information.chunked import LOG2E, at_once, scores_of, slices, softplus
from core.matmul import matmul

ON_CPU, ON_GPU = 1024, 4096  # rows and columns of a tile; on a CPU, a tile fits into the cache
# most exponentials that the first pass keeps for the second, 24 MiB; a small batch keeps all
KEPT = 3 * 2**21
# if all exponents are smaller, neither exp2 nor a sum of 2^27 such numbers leaves float32's range
SAFE = 100


class Layout(NamedTuple):
    """The sizes of a batch. `both`: columns are anchors, too (only for V = 1, W = 1)."""

    pairs: int  # B
    views: int  # V
    world: int = 1  # W
    rank: int = 0
    both: bool = False

    @property
    def square(self) -> bool:
        """Whether rows and columns are the same codes. If so, the upper triangle is enough."""
        return self.views == 2 and self.world == 1

    @property
    def mine(self) -> slice:
        """The pairs among the columns that are also rows."""
        return slice(self.rank * self.pairs, (self.rank + 1) * self.pairs)


class Tile(NamedTuple):
    row: int  # number of the block
    column: int
    diagonal: bool  # both sides hold the same pairs
    mirrored: bool  # its columns are anchors, too, and no other tile holds these scores


class Blocks(NamedTuple):
    """The pairs of each block of rows and columns, and the tiles (the upper ones of a square)."""

    rows: list[slice]
    columns: list[slice]
    tiles: list[Tile]


def cut(layout: Layout, size: int) -> Blocks:
    """Blocks of at most `size` rows or columns. This process's own pairs are cut into the same
    blocks as rows and as columns.
    """
    size = size // layout.views
    rows = list(slices(layout.pairs, size))
    parts = (
        (0, layout.mine.start),
        (layout.mine.start, layout.pairs),
        (layout.mine.stop, (layout.world - layout.rank - 1) * layout.pairs),
    )
    columns = [
        slice(first + part.start, first + part.stop)
        for first, length in parts
        for part in slices(length, size)
    ]
    first = len(list(slices(layout.mine.start, size)))
    tiles = [
        Tile(i, j, j == first + i, layout.both or layout.square and i != j)
        for i in range(len(rows))
        for j in range(i if layout.square else 0, len(columns))
    ]
    return Blocks(rows, columns, tiles)


class InBatch(torch.autograd.Function):
    """Takes rows [V B, D], columns [V W B, D], scale and layout. Returns the loss and, without
    gradient, the loss against only the other view (N = W B candidates).

    The gradient is computed with the loss and kept, O((rows + columns) D). If rows and columns are
    the same codes (`Layout.square`), the whole gradient is returned for the rows. There is no
    second derivative.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, columns: Tensor, scale: float, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        wanted = any(ctx.needs_input_grad[:2])
        if at_once(rows, len(rows) * len(columns) * (2 if layout.both else 1)):
            loss, one_sided, gradients = _in_one_block(rows, columns, scale, layout, wanted)
            if wanted:
                ctx.save_for_backward(*gradients)
            ctx.mark_non_differentiable(one_sided)
            return loss, one_sided
        scored = _Scored(rows, columns, scale, layout, KEPT if wanted else 0)
        loss, one_sided = (x.to(rows.dtype) for x in scored.losses())
        if wanted:
            ctx.save_for_backward(*scored.gradients())
        ctx.mark_non_differentiable(one_sided)
        return loss, one_sided

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        rows, columns = ctx.saved_tensors
        return rows * grad, None if columns is None else columns * grad, None, None


def _in_one_block(
    rows: Tensor, columns: Tensor, scale: float, layout: Layout, wanted: bool
) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
    """Loss, one-sided loss and gradients from one matrix of all scores, with few operators."""
    v = layout.views
    scores = scores_of(rows, columns, scale).view(v, layout.pairs, v, -1)
    # the scores of each pair with itself, [V, V, B]: the positives, which the loss treats
    # separately, and the scores of rows with themselves, which are not candidates
    same = scores[..., layout.mine].diagonal(dim1=1, dim2=3)
    positive = [(view, v - 1 - view) for view in range(v)]
    own = same[positive[0]].clone()  # [B], of either view
    same.fill_(-math.inf)
    sides = [(3, scores)] if not layout.both else [(3, scores.clone()), (1, scores)]
    losses, one_sided, weights = [], [], []
    for dim, side in sides:
        top = side.amax(dim, keepdim=True).clamp_(min=torch.finfo(side.dtype).min)
        side.sub_(top).exp_()
        logs = side.sum(dim, keepdim=True).log_().add_(top)  # [V, B, V, 1] or [1, 1, 1, B]
        negatives = logs if v == 1 else torch.logaddexp(*logs.unbind(2)).unsqueeze(2)
        margin = negatives.view(v, -1) - own
        losses.append(softplus(margin).mean())
        if v == 2:
            one_sided.append(
                softplus(torch.stack([logs[0, :, 1, 0], logs[1, :, 0, 0]]) - own).mean()
            )
        if wanted:
            total = torch.logaddexp(negatives, own.view(1, -1, 1, 1) if dim == 3 else own)
            weights.append((side.mul_((top - total).exp_()), margin))
    loss = torch.stack(losses).mean() if layout.both else losses[0]
    one = one_sided[0] if one_sided else loss.clone()
    if not wanted:
        return loss, one, (None, None)
    share = scale / (len(losses) * v * layout.pairs)
    # The weight of a positive is its probability minus one. It is computed from the negatives'
    # sum, so that no digit is lost when it is near zero.
    weight, missing = weights[0][0], torch.sigmoid(weights[0][1]).neg_()
    for other_weight, margin in weights[1:]:
        weight, missing = weight.add_(other_weight), missing.sub_(torch.sigmoid(margin))
    same = weight[..., layout.mine].diagonal(dim1=1, dim2=3)
    for view, other in positive:
        same[view, other].copy_(missing[view])
    weight = weight.view(len(rows), -1)
    by_row = torch.addmm(rows.new_empty(()), weight, columns, beta=0, alpha=share)
    if layout.square:
        return loss, one, (by_row.addmm_(weight.T, rows, alpha=share), None)
    return loss, one, (by_row, torch.addmm(rows.new_empty(()), weight.T, rows, beta=0, alpha=share))


class _Scored:
    """For every anchor, the logarithm to base 2 of the sum over its negatives, in float64.

    Anchors are the rows and, with `both`, also the columns. `sums` are [V, pairs, V], over the
    candidates of each view; `negatives` are [V, pairs], over all candidates.
    """

    def __init__(self, rows: Tensor, columns: Tensor, scale: float, layout: Layout, keep: int):
        self.scale, self.layout, self.keep = scale, layout, keep
        on_cpu = rows.device.type == "cpu"
        self.blocks = cut(layout, ON_CPU if on_cpu else ON_GPU)
        x, y = (codes.view(layout.views, -1, codes.shape[1]) for codes in (rows, columns))
        self.x, self.positive = x, y[:, layout.mine].flip(0)
        own = (x[0].double() * self.positive[0].double()).sum(1)  # the same for both views
        self.own = own.mul_(scale * LOG2E).expand(x.shape[:2])
        self.rows = [x[:, part].flatten(0, 1) for part in self.blocks.rows]
        self.columns = self.rows
        if not layout.square:
            self.columns = [y[:, part].flatten(0, 1) for part in self.blocks.columns]
        self.scaled = [block * (scale * LOG2E) for block in self.rows]
        # On a GPU, the host would have to wait for the largest norm, so every tile subtracts its
        # maxima there.
        self.safe = False
        if on_cpu:
            norms = [codes.norm(dim=1).max().item() for codes in (rows, columns)]
            self.safe = scale * LOG2E * math.prod(norms) < SAFE
        self.kept: dict[Tile, Tensor] = {}
        of_rows: dict[int, Tensor] = {}
        of_columns: dict[int, Tensor] = of_rows if layout.square else {}
        for tile in self.blocks.tiles:
            by_row, by_column = self._log_sums(tile)
            _accumulate(of_rows, tile.row, by_row, torch.logaddexp2)
            if by_column is not None:
                _accumulate(of_columns, tile.column, by_column, torch.logaddexp2)
        parts = [of_rows, of_columns] if layout.both else [of_rows]
        self.sums = [torch.cat([of[i] for i in range(len(of))], 1) for of in parts]
        self.negatives = [
            sums[..., 0] if layout.views == 1 else torch.logaddexp2(*sums.unbind(2))
            for sums in self.sums
        ]

    def losses(self) -> tuple[Tensor, Tensor]:
        """Mean losses in nats: against all candidates, and against only the other view."""
        others = [
            torch.stack([sums[view, :, -1 - view] for view in range(len(sums))])
            for sums in self.sums
        ]
        logs = (self.negatives, others)
        everyone, one_sided = (_softplus(torch.stack(x) - self.own).mean() for x in logs)
        return everyone, one_sided

    def gradients(self) -> tuple[Tensor, Tensor | None]:
        """Gradients of the loss with respect to rows and columns: sums over tiles of W y and W^T x,
        W = dL/ds, plus the terms of the positives.
        """
        totals = [torch.logaddexp2(negatives, self.own) for negatives in self.negatives]
        of_rows = [totals[0][:, part].flatten() for part in self.blocks.rows]
        of_columns = of_rows
        if not self.layout.square:
            of_columns = [totals[-1][:, part].flatten() for part in self.blocks.columns]
        by_row: dict[int, Tensor] = {}
        by_column: dict[int, Tensor] = {}  # transposed, because W^T x is slow and x^T W is not
        for tile in self.blocks.tiles:
            # If rows and columns are the same codes, a diagonal tile has a symmetric W, so W y
            # already contains the terms of rows and of columns
            symmetric = self.layout.square and tile.diagonal
            columns = of_columns[tile.column] if symmetric or tile.mirrored else None
            weights = self._weights(tile, of_rows[tile.row], columns)
            _accumulate(by_row, tile.row, matmul(weights, self.columns[tile.column].T), Tensor.add_)
            if not symmetric:
                rows = self.rows[tile.row].T
                _accumulate(by_column, tile.column, matmul(rows, weights.T), Tensor.add_)
            del weights  # so that the next tile gets the same memory, which is still in the cache
        # The weight of a positive is its probability minus one. It is computed from the negatives'
        # sum, so that no digit is lost when it is near zero.
        missing = torch.sigmoid((torch.stack(self.negatives) - self.own) / LOG2E).sum(0)
        missing = missing.to(self.x.dtype)[..., None]
        share = self.scale / (len(self.sums) * self.own.numel())
        d_columns = None
        if self.layout.square:
            missing = missing + missing.flip(0)
            for block, found in by_column.items():
                by_row[block] += found.T
        else:
            d_columns = self._whole({block: found.T for block, found in by_column.items()})
            d_columns[:, self.layout.mine] -= (missing * self.x).flip(0)
            d_columns = d_columns.mul_(share).flatten(0, 1)
        d_rows = self._whole(by_row).sub_(missing * self.positive).mul_(share)
        return d_rows.flatten(0, 1), d_columns

    def _whole(self, blocks: dict[int, Tensor]) -> Tensor:
        """All blocks as one tensor [V, pairs, D]."""
        views = self.layout.views
        return torch.cat([blocks[i].unflatten(0, (views, -1)) for i in range(len(blocks))], 1)

    def _scores(self, tile: Tile) -> Tensor:
        """The scores of a tile [V, r, V, c]; the scores of a pair with itself are -inf."""
        scores, views = matmul(self.scaled[tile.row], self.columns[tile.column]), self.layout.views
        by_view = scores.view(views, len(scores) // views, views, -1)
        if tile.diagonal:
            by_view.diagonal(dim1=1, dim2=3).fill_(-math.inf)
        return by_view

    def _log_sums(self, tile: Tile) -> tuple[Tensor, Tensor | None]:
        """Log sums over each row, [V, r, V], and over each column of a mirrored tile, [V, c, V]."""
        scores = self._scores(tile)
        if not self.safe:
            by_column = _logsumexp2(scores, 1).permute(1, 2, 0) if tile.mirrored else None
            return _logsumexp2(scores, 3), by_column
        scores.exp2_()
        if sum(map(Tensor.numel, self.kept.values())) + scores.numel() <= self.keep:
            self.kept[tile] = scores
        by_row = scores.sum(3).double().log2()
        if not tile.mirrored:
            return by_row, None
        ones = scores.new_ones(scores.shape[1])
        by_view = torch.stack([view.flatten(1).T @ ones for view in scores])
        by_column = by_view.unflatten(1, scores.shape[2:])
        return by_row, by_column.permute(1, 2, 0).double().log2()

    def _weights(self, tile: Tile, of_rows: Tensor, of_columns: Tensor | None) -> Tensor:
        """dL/ds of a tile, [V r, V c], times the number of anchors: p(column | row), plus
        p(row | column) if columns are anchors, too.
        """
        if self.safe:
            weights = self.kept.pop(tile) if tile in self.kept else self._scores(tile).exp2_()
            inverse = torch.exp2(-of_rows).to(weights.dtype)[:, None]
            weights = weights.view(len(inverse), -1)
            if of_columns is not None:
                inverse = inverse + torch.exp2(-of_columns).to(weights.dtype)
            return weights.mul_(inverse)
        weights = _probabilities(self._scores(tile).view(len(of_rows), -1), of_rows[:, None])
        if of_columns is None:
            return weights
        if not tile.mirrored:  # s_ij and s_ji are rounded differently, so each needs its own total
            return weights + weights.T
        return weights.add_(_probabilities(self._scores(tile).view(len(of_rows), -1), of_columns))


def _accumulate(
    found: dict[int, Tensor],
    block: int,
    value: Tensor,
    operation: Callable[[Tensor, Tensor], Tensor],
) -> None:
    found[block] = operation(found[block], value) if block in found else value


def _probabilities(scores: Tensor, total: Tensor) -> Tensor:
    """2^(s - total), in place. Large scores are near a large total, so the leading digits of
    the total are subtracted first, and the difference keeps the other digits.
    """
    leading = total.to(scores.dtype)
    return scores.sub_(leading).sub_((total - leading).to(scores.dtype)).exp2_()


def _logsumexp2(scores: Tensor, dim: int) -> Tensor:
    # the sum over no candidate is zero
    top = scores.amax(dim, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    return torch.exp2(scores - top).sum(dim).double().log2() + top.squeeze(dim)


def _softplus(x: Tensor) -> Tensor:
    """log(1 + 2^x), exact at both ends."""
    return torch.logaddexp(x / LOG2E, torch.zeros_like(x))
