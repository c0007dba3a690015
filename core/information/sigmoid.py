"""SigLIP's loss: each pair of an image and a text is classified as true or false by itself.

N = pairs in the global batch, B = pairs on this process, D = dimensions. (Zhai et al. 2023.)
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.batch import at_least_float32
from core.distributed import gather, rank
from core.information.chunked import slices
from core.information.in_batch import ON_CPU, ON_GPU
from core.information.losses import in_float32
from core.matmul import matmul


@in_float32
def sigmoid_loss(first: Tensor, second: Tensor, bias: Tensor) -> Tensor:
    """SigLIP's loss, summed over all N^2 combinations of an image and a text of the global batch,
    and divided by N:

        L = (1/N) sum_i sum_j softplus(-z_ij (<first_i, second_j> + b)),   z_ij = 1 if i = j else -1

    first, second [B, D]: unit codes, where those of `first` are multiplied by the scale; bias [1].
    Returns a scalar with gradients to all three. The loss is computed in tiles, in memory
    O((B + N) D). It gives no bound on mutual information. The best score is
    log p(y|x) / p(y) - log(N - 1).
    """
    x, y = at_least_float32(first), at_least_float32(second)
    return _Sigmoid.apply(x, gather(y), bias.to(x.dtype), rank() * len(x))


class _Sigmoid(torch.autograd.Function):
    """Takes rows [B, D], columns [N, D], bias [1], and the index of the column that is the partner
    of the first row.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, bias: Tensor, first: int) -> Tensor:
        size = ON_CPU if rows.device.type == "cpu" else ON_GPU
        loss = rows.new_zeros((), dtype=torch.float64)
        d_bias = torch.zeros_like(loss)
        d_rows, d_columns = torch.zeros_like(rows), torch.zeros_like(columns)
        for here in slices(len(rows), size):
            for there in slices(len(columns), size):
                scores = matmul(rows[here], columns[there]).add_(bias)
                own = _partners(scores, here.start + first, there.start)
                own.neg_()
                loss += softplus(scores).sum(dtype=torch.float64)
                weights = scores.sigmoid_()
                own.neg_()
                d_bias += weights.sum(dtype=torch.float64)
                d_rows[here] += matmul(weights, columns[there].T)
                # transposed, because W^T x is slow and x^T W is not
                d_columns[there] += matmul(rows[here].T, weights.T).T
        share = 1 / len(rows)
        d_bias = (d_bias * share).to(bias.dtype).expand_as(bias)
        ctx.save_for_backward(d_rows.mul_(share), d_columns.mul_(share), d_bias)
        return (loss * share).to(rows.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        d_rows, d_columns, d_bias = ctx.saved_tensors
        return d_rows * grad, d_columns * grad, d_bias * grad, None


def _partners(scores: Tensor, row: int, column: int) -> Tensor:
    """The scores of own pairs in a tile. `row` and `column` are indices of columns: the partner of
    the tile's first row is column `row`, and the tile begins at column `column`.
    """
    shift = row - column
    if abs(shift) >= max(scores.shape):
        return scores.new_empty(0)
    return scores.diagonal(shift)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x) in two operators, exact at both ends."""
    return torch.logaddexp(x, x.new_zeros(()))
