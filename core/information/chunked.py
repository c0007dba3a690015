"""InfoNCE of queries against many keys, chunk by chunk: loss and gradient in one pass.

The gradient of InfoNCE with respect to a query is attention whose values are the keys,

    dL/dq = (1/T) (sum_c softmax_c(<q, k_c>/T) k_c - k+)

One pass with a running maximum, a running sum and a running weighted mean gives the loss and its
gradient (the online softmax of Milakov & Gimelshein 2018). It takes two matrix products and one
exponential per score, and never holds all scores. N = queries, K = keys, D = dimensions.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.information import flash
from core.matmul import matmul

# Scores are multiplied by log2 e, because exp(s) = exp2(s log2 e), and exp2 is 4 times as fast as
# exp on a CPU.
LOG2E = 1 / math.log(2)

# The largest numbers of queries, keys and scores of a chunk; on a CPU, a chunk fits into the cache.
ON_CPU, ON_GPU = (512, 8192, 2**19), (8192, 2**16, 2**24)
# Up to this many scores (256 MiB in float32) are computed in one piece on devices where each
# operator needs a launch.
AT_ONCE = 2**26
DEVICES: tuple[str, ...] = ("cuda",)


def at_once(x: Tensor, numbers: int) -> bool:
    """Whether `numbers` scores on the device of x are computed in one piece."""
    return x.device.type in DEVICES and numbers <= AT_ONCE


def scores_of(rows: Tensor, columns: Tensor, scale: float) -> Tensor:
    """scale <x, y>, [n, m], in one operator."""
    return torch.addmm(rows.new_empty(()), rows, columns.T, beta=0, alpha=scale)


def slices(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


class QueueInfoNCE(torch.autograd.Function):
    """Takes query, key [N, D], negatives [K, D] and scale; returns the mean of
    log(1 + sum_c exp(s_ic - s_i+)).

    `half`: the negatives may be rounded to half precision, but not the own key. The gradient is
    computed with the loss and kept, O(N D). There is no second derivative.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, negatives: Tensor, scale: float, half: bool = False
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad[:2])
        total, mean = softmax_mean(query, negatives, scale, wanted, half)
        own = (query.to(total.dtype) * key.to(total.dtype)).sum(1)
        margin = torch.sub(total, own, alpha=scale)
        if mean is not None:
            # one minus the probability of the positive
            weight = (torch.sigmoid(margin).mul_(scale / len(query))).to(query.dtype)[:, None]
            of_query, of_key = ctx.needs_input_grad[:2]
            ctx.save_for_backward(
                mean.sub_(key).mul_(weight) if of_query else None,
                query * weight if of_key else None,
            )
        return softplus(margin).mean().to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        query, key = ctx.saved_tensors
        return (
            None if query is None else query * grad,
            None if key is None else key * -grad,
            None,
            None,
            None,
        )


def softmax_mean(
    query: Tensor, keys: Tensor, scale: float, mean: bool = True, half: bool = False
) -> tuple[Tensor, Tensor | None]:
    """For query [N, D] and keys [K, D]: log sum_c exp(scale <q, k_c>), [N], and the mean key
    [N, D], weighted by the softmax (None without `mean`).

    Extra memory is O(N D) and one chunk of scores; on a GPU, up to `AT_ONCE` scores are one chunk.
    Chunks are summed in float64. Vectors may have any length: the maximum is subtracted if
    exponentials would overflow or underflow in float32. Keys in half precision are widened chunk by
    chunk. With `half`, keys may be rounded to it, if `core.information.flash` can be used.
    """
    if half and flash.serves(query, keys, scale):
        total, found = flash.softmax_mean(query, keys, scale)
        return total, found if mean else None
    widened = 0 if keys.dtype == query.dtype else keys.numel()
    if at_once(query, max(len(query) * len(keys), widened)):
        return _in_one_block(query, keys.to(query.dtype), scale, mean)
    rows, widest, most = ON_CPU if query.device.type == "cpu" else ON_GPU
    parts = []
    for part in slices(len(query), rows):
        size = min(widest, most // (part.stop - part.start))
        parts.append(_of_rows(query[part], keys, scale, size, mean))
    totals, means = zip(*parts, strict=True)
    return torch.cat(totals), torch.cat(means) if mean else None


def _in_one_block(
    query: Tensor, keys: Tensor, scale: float, mean: bool
) -> tuple[Tensor, Tensor | None]:
    scores = scores_of(query, keys, scale)
    top = scores.amax(1)
    total = scores.sub_(top[:, None]).exp_().sum(1)
    found = (scores @ keys).div_(total[:, None]) if mean else None
    return total.log_().add_(top), found


def _of_rows(
    query: Tensor, keys: Tensor, scale: float, size: int, mean: bool
) -> tuple[Tensor, Tensor]:
    scaled = query * (scale * LOG2E)
    top = query.new_full((len(query),), -math.inf)
    total = torch.zeros_like(top, dtype=torch.float64)
    weighted = torch.zeros_like(query)
    # The maximum is subtracted only if needed. On a GPU, this check would wait for the device.
    plain = query.device.type == "cpu"
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
        del scores  # so that the next chunk gets the same memory, which is still in the cache
    return (top + total.log2()) / LOG2E, weighted.div_(total[:, None])


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), exact for large and small x."""
    return F.softplus(x, threshold=50.0)


def in_range(sums: Tensor) -> bool:
    """Whether sums of exponentials lost no important term and can be added by the thousands."""
    low, high = torch.aminmax(sums)
    return low.item() > 2.0**-90 and high.item() < 2.0**90
