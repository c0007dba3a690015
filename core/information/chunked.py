"""Scores of queries against keys, chunk by chunk: loss and gradient together, and no matrix of all
scores.

The gradient of InfoNCE with respect to a query is attention whose values are the keys,

    dL/dq = (1/T) (sum_c softmax_c(<q, k_c>/T) k_c - k+)

so one pass that keeps a running maximum, a running sum and a running weighted mean gives loss and
gradient: two matrix products and one exponential for each score (the online softmax of Milakov &
Gimelshein 2018). N = queries, K = keys, D = dimensions.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.information import flash
from core.matmul import matmul

LOG2E = (
    1 / math.log(2)
    # scores are held in powers of two: exp2 is four times as fast as exp on a CPU, and exp2(s log2
    # e) = exp(s)
)

# Queries at a time, most keys and most scores of a chunk: on a CPU it stays in the cache.
ON_CPU, ON_GPU = (512, 8192, 2**19), (8192, 2**16, 2**24)


def slices(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


class QueueInfoNCE(torch.autograd.Function):
    """query, key [N, D], negatives [K, D] and scale 1/T to the mean of log(1 + sum_c exp(s_ic -
    s_i+)).

    `half` allows the negatives to be rounded to half precision; the own key never is. The gradient
    is computed with the loss and kept, O(N D). There is no second derivative.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, negatives: Tensor, scale: float, half: bool = False
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad[:2])
        total, mean = softmax_mean(query, negatives, scale, wanted, half)
        margin = total - scale * (query.double() * key.double()).sum(1)
        if mean is not None:
            weight = (torch.sigmoid(margin) * (scale / len(query))).to(query.dtype)[
                :, None
            ]  # one minus the positive's probability
            ctx.save_for_backward(mean.sub_(key).mul_(weight), query * -weight)
        return torch.logaddexp(margin, torch.zeros_like(margin)).mean().to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        query, key = ctx.saved_tensors
        return query * grad, key * grad, None, None, None


def softmax_mean(
    query: Tensor, keys: Tensor, scale: float, mean: bool = True, half: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Of query [N, D] against keys [K, D]: log sum_c exp(scale <q, k_c>), float64 [N], and the
    softmax-weighted mean key [N, D].

    Without `mean` only the first. Extra memory is O(N D) and one chunk of scores, whatever K. Any
    vectors: the maximum is taken out where exponentials would leave float32's range. Keys in half
    precision are widened chunk by chunk, so scores and sums are never in it. With `half` they may
    be rounded to it instead, where `core.information.flash` serves.
    """
    if half and flash.serves(query, keys, scale):
        total, found = flash.softmax_mean(query, keys, scale)
        return total, found if mean else None
    rows, widest, most = ON_CPU if query.device.type == "cpu" else ON_GPU
    parts = []
    for part in slices(len(query), rows):
        size = min(widest, most // (part.stop - part.start))
        parts.append(_of_rows(query[part], keys, scale, size, mean))
    totals, means = zip(*parts, strict=True)
    return torch.cat(totals), torch.cat(means) if mean else None


def _of_rows(
    query: Tensor, keys: Tensor, scale: float, size: int, mean: bool
) -> tuple[Tensor, Tensor]:
    scaled = query * (scale * LOG2E)
    top = query.new_full((len(query),), -math.inf)
    total = torch.zeros_like(top, dtype=torch.float64)
    weighted = torch.zeros_like(query)
    plain = (
        query.device.type == "cpu"
    )  # no maximum is taken out while none is needed; asking a GPU for that would make it wait
    for chunk in keys.split(size):
        chunk = chunk.to(query.dtype)
        scores = matmul(scaled, chunk)
        if plain:
            found = scores.exp2_().sum(1)
            if plain := in_range(found):
                top.zero_()
            else:
                scores = matmul(scaled, chunk)
        if not plain:
            higher = torch.maximum(top, scores.amax(1))
            fade, top = torch.exp2(top - higher), higher
            found = scores.sub_(top[:, None]).exp2_().sum(1)
            total.mul_(fade)
            weighted.mul_(fade[:, None])
        total.add_(found)
        if mean:
            weighted.add_(matmul(scores, chunk.T))
        # before the next chunk asks for its own, which then gets the same memory, still in the
        # cache
        del scores
    return (top + total.log2()) / LOG2E, weighted.div_(total[:, None])


def in_range(sums: Tensor) -> bool:
    """Whether sums of float32 exponentials have lost no term that counts, and leave room to add up
    thousands of them, times keys.
    """
    low, high = torch.aminmax(sums)
    return low.item() > 2.0**-90 and high.item() < 2.0**90
