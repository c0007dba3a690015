"""In-batch InfoNCE, tile by tile: each tile of scores serves its rows and, transposed, its columns;
no matrix of all scores is held.

    L = mean_i log(1 + sum_{c negative of i} exp(s_ic - s_i+)),   s_ij = scale <x_i, y_j>

A first pass over the tiles gives the sums, a second computes each tile again and turns it into the
gradient of both its sides. On a GPU all scores are one block where they are few enough (`AT_ONCE`
of `core.information.chunked`), and are held. B = pairs on this process, W = processes, V = 2 where
both views are rows and columns (NT-Xent), 1 where the rows are one view and the columns the other
(CLIP), D = dimensions. Rows are [V, B, D], columns [V, W B, D], and a block is all views of some
pairs. A tile is a block of r pairs by a block of c, scores [V r, V c], or by view [V, r, V, c];
what a pair has with itself lies on the diagonals of that.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.information.chunked import LOG2E, at_once, scores_of, slices, softplus
from core.matmul import matmul

ON_CPU, ON_GPU = 1024, 4096  # rows and columns of a tile: on a CPU it stays in the cache
KEPT = (
    3 * 2**21
    # exponentials that the first pass keeps for the second, 24 MiB: small batches whole, of large
    # ones some tiles
)
# exp2 of scores up to here neither overflows nor underflows in float32, nor do sums of 2^27 of them
SAFE = 100


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

    @property
    def mine(self) -> slice:
        """The columns' pairs that are the rows'."""
        return slice(self.rank * self.pairs, (self.rank + 1) * self.pairs)


class Tile(NamedTuple):
    row: int  # of blocks
    column: int
    diagonal: bool  # the same pairs on both sides
    mirrored: (
        bool  # columns are anchors of its rows, and it is the one tile that they have with them
    )


class Blocks(NamedTuple):
    """The pairs of each block of rows and of columns, and the tiles they make, of a square those of
    the upper triangle.
    """

    rows: list[slice]
    columns: list[slice]
    tiles: list[Tile]


def cut(layout: Layout, size: int) -> Blocks:
    """Blocks of at most `size` rows or columns; those of the columns that are the rows' pairs are
    cut as the rows are.
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
    places = [
        (i, j) for i in range(len(rows)) for j in range(i if layout.square else 0, len(columns))
    ]
    return Blocks(
        rows,
        columns,
        [Tile(i, j, j == first + i, layout.both or layout.square and i != j) for i, j in places],
    )


class InBatch(torch.autograd.Function):
    """rows [V B, D], columns [V W B, D], scale and layout to the loss and, detached, the loss
    against the other view alone (N candidates).

    The gradient is computed with the loss and kept, O((rows + columns) D); of a square all of it
    goes to the rows. There is no second derivative.
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
    """Loss, one-sided loss and gradients from one matrix of all scores: where it fits, by few
    operators, for each is launched by Python.
    """
    v = layout.views
    scores = scores_of(rows, columns, scale).view(v, layout.pairs, v, -1)
    # what a pair has with itself, [V, V, B]: own positives, which have a place of their own in the
    # loss, and each row with itself, which is no candidate
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
    # the positive's weight is its probability minus one, taken from the negatives' sum so that no
    # digit is lost where it is near zero
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
    """The scores of a batch, summed: for every anchor the log of the sum over its negatives, in
    powers of two and float64.

    The anchors are the rows, in `both` the columns as well, and of a square the columns are the
    rows. `sums` are [V, pairs, V], of each anchor over the candidates of either view, and
    `negatives` [V, pairs], over all of them.
    """

    def __init__(self, rows: Tensor, columns: Tensor, scale: float, layout: Layout, keep: int):
        self.scale, self.layout, self.keep = scale, layout, keep
        on_cpu = rows.device.type == "cpu"
        self.blocks = cut(layout, ON_CPU if on_cpu else ON_GPU)
        x, y = (codes.view(layout.views, -1, codes.shape[1]) for codes in (rows, columns))
        self.x, self.positive = x, y[:, layout.mine].flip(0)
        self.own = (
            (x[0].double() * self.positive[0].double())
            .sum(1)
            .mul_(scale * LOG2E)
            .expand(x.shape[:2])
        )  # of a pair, whichever view
        self.rows = [x[:, part].flatten(0, 1) for part in self.blocks.rows]
        self.columns = (
            self.rows
            if layout.square
            else [y[:, part].flatten(0, 1) for part in self.blocks.columns]
        )
        self.scaled = [block * (scale * LOG2E) for block in self.rows]
        # Asking a GPU for the largest norm would make it wait; there every tile takes its maxima
        # out.
        self.safe = (
            on_cpu
            and scale
            * LOG2E
            * math.prod(codes.norm(dim=1).max().item() for codes in (rows, columns))
            < SAFE
        )
        self.kept: dict[Tile, Tensor] = {}
        of_rows: dict[int, Tensor] = {}
        of_columns: dict[int, Tensor] = of_rows if layout.square else {}
        for tile in self.blocks.tiles:
            by_row, by_column = self._log_sums(tile)
            _accumulate(of_rows, tile.row, by_row, torch.logaddexp2)
            if by_column is not None:
                _accumulate(of_columns, tile.column, by_column, torch.logaddexp2)
        self.sums = [
            torch.cat([of[i] for i in range(len(of))], 1)
            for of in ([of_rows, of_columns] if layout.both else [of_rows])
        ]
        self.negatives = [
            sums[..., 0] if layout.views == 1 else torch.logaddexp2(*sums.unbind(2))
            for sums in self.sums
        ]

    def losses(self) -> tuple[Tensor, Tensor]:
        """Means over the anchors, in nats: against all candidates, and against those of the other
        view alone.
        """
        others = [
            torch.stack([sums[view, :, -1 - view] for view in range(len(sums))])
            for sums in self.sums
        ]
        everyone, one_sided = (
            _softplus(torch.stack(logs) - self.own).mean() for logs in (self.negatives, others)
        )
        return everyone, one_sided

    def gradients(self) -> tuple[Tensor, Tensor | None]:
        """Of the loss, with respect to rows and columns: sums over tiles of W y and W^T x, W =
        dL/ds, and the positives' share.
        """
        totals = [torch.logaddexp2(negatives, self.own) for negatives in self.negatives]
        of_rows = [totals[0][:, part].flatten() for part in self.blocks.rows]
        of_columns = (
            of_rows
            if self.layout.square
            else [totals[-1][:, part].flatten() for part in self.blocks.columns]
        )
        by_row: dict[int, Tensor] = {}
        by_column: dict[int, Tensor] = {}  # transposed: W^T x is slow, x^T W is not
        for tile in self.blocks.tiles:
            symmetric = self.layout.square and tile.diagonal  # and W is, so both sides are in W y
            weights = self._weights(
                tile,
                of_rows[tile.row],
                of_columns[tile.column] if symmetric or tile.mirrored else None,
            )
            _accumulate(by_row, tile.row, matmul(weights, self.columns[tile.column].T), Tensor.add_)
            if not symmetric:
                _accumulate(
                    by_column, tile.column, matmul(self.rows[tile.row].T, weights.T), Tensor.add_
                )
            # before the next tile asks for its own, which then gets the same memory, still in the
            # cache
            del weights
        # The positive's weight is its probability minus one, taken from the negatives' sum so that
        # no digit is lost where it is near zero.
        missing = (
            torch.sigmoid((torch.stack(self.negatives) - self.own) / LOG2E)
            .sum(0)
            .to(self.x.dtype)[..., None]
        )
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
        return self._whole(by_row).sub_(missing * self.positive).mul_(share).flatten(
            0, 1
        ), d_columns

    def _whole(self, blocks: dict[int, Tensor]) -> Tensor:
        """[V, pairs, D]"""
        return torch.cat(
            [blocks[i].unflatten(0, (self.layout.views, -1)) for i in range(len(blocks))], 1
        )

    def _scores(self, tile: Tile) -> Tensor:
        """[V, r, V, c]; what is no negative, a pair with itself, is -inf."""
        scores = matmul(self.scaled[tile.row], self.columns[tile.column])
        by_view = scores.view(
            self.layout.views, len(scores) // self.layout.views, self.layout.views, -1
        )
        if tile.diagonal:
            by_view.diagonal(dim1=1, dim2=3).fill_(-math.inf)
        return by_view

    def _log_sums(self, tile: Tile) -> tuple[Tensor, Tensor | None]:
        """The log of the sums over each row, [V, r, V], and, of a mirrored tile, each column, [V,
        c, V].
        """
        scores = self._scores(tile)
        if not self.safe:
            return _logsumexp2(scores, 3), _logsumexp2(scores, 1).permute(
                1, 2, 0
            ) if tile.mirrored else None
        scores.exp2_()
        if sum(map(Tensor.numel, self.kept.values())) + scores.numel() <= self.keep:
            self.kept[tile] = scores
        by_row = scores.sum(3).double().log2()
        if not tile.mirrored:
            return by_row, None
        ones = scores.new_ones(scores.shape[1])
        by_column = torch.stack([view.flatten(1).T @ ones for view in scores]).unflatten(
            1, scores.shape[2:]
        )
        return by_row, by_column.permute(1, 2, 0).double().log2()

    def _weights(self, tile: Tile, of_rows: Tensor, of_columns: Tensor | None) -> Tensor:
        """dL/ds of a tile, [V r, V c], times the number of anchors: p(column | row), + p(row |
        column) where columns are anchors, too.
        """
        if self.safe:
            weights = self.kept.pop(tile) if tile in self.kept else self._scores(tile).exp2_()
            inverse = torch.exp2(-of_rows).to(weights.dtype)[:, None]
            weights = weights.view(len(inverse), -1)
            return weights.mul_(
                inverse
                if of_columns is None
                else inverse + torch.exp2(-of_columns).to(weights.dtype)
            )
        weights = _probabilities(self._scores(tile).view(len(of_rows), -1), of_rows[:, None])
        if of_columns is None:
            return weights
        if not tile.mirrored:  # s_ij and s_ji differ in rounding, and each goes with its own total
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
    """2^(s - total), in place. Large scores are near a large total: its leading digits go first,
    and the difference keeps the others.
    """
    leading = total.to(scores.dtype)
    return scores.sub_(leading).sub_((total - leading).to(scores.dtype)).exp2_()


def _logsumexp2(scores: Tensor, dim: int) -> Tensor:
    top = scores.amax(dim, keepdim=True).clamp(
        min=torch.finfo(scores.dtype).min
    )  # where nothing is a candidate the sum is zero
    return torch.exp2(scores - top).sum(dim).double().log2() + top.squeeze(dim)


def _softplus(x: Tensor) -> Tensor:
    """log(1 + 2^x), exact at both ends."""
    return torch.logaddexp(x / LOG2E, torch.zeros_like(x))
