"""The InfoNCE losses that train contrastive encoders.

    L = E[ -log( exp s(q, k+) / sum_c exp s(q, k_c) ) ],   s(q, k) = <q, k> / T,   in nats

N = pairs in the global batch, B = pairs on this process, K = queued negatives, D = dimensions. Codes have unit length.
What each loss may claim about I(V1; V2) is said beside it; the probe, not the training loss, reports a bound.
"""

from core.distributed import gather, rank

import functools
import math
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def in_float32(loss: Callable[P, R]) -> Callable[P, R]:
    """Score outside of autocast: bf16 logits have three digits, and a bound is a difference of logarithms."""

    @functools.wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast(args[0].device.type, enabled=False):  # type: ignore[attr-defined]
            return loss(*args, **kwargs)

    return wrapped


@in_float32
def queue_loss(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """MoCo's form (He et al. 2020): the own key against K queued negatives, K + 1 candidates.

    query, key [B, D]; queue [K, D]; returns a scalar. While training, log(K + 1) - L is a diagnostic and no bound: queued keys
    come from older encoders, so they are no draws from the marginal of the present key.
    """
    positive = (query * key).sum(1, keepdim=True)
    logits = torch.cat([positive, query @ queue.T], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


@in_float32
@torch.no_grad()
def in_batch_loss(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    """CLIP's form, one side: each query against the keys of the whole global batch, N candidates; no gradient.

    query, key [B, D]; returns a scalar. log N - L has the form of a valid lower bound: the keys of other images are independent draws
    from one encoder. It is one only where encoder and critic have not seen the images.
    """
    own = torch.arange(len(query), device=query.device) + rank() * len(query)
    return F.cross_entropy(query @ gather(key).T / temperature, own)


@in_float32
def nt_xent(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """NT-Xent (Chen et al. 2020): 2N views, own view left out, 2N - 1 candidates.

    first, second [B, D]; returns the loss and, detached, the one-sided in-batch loss with N candidates, from which
    log N - L is a valid lower bound for a critic that has not seen the batch (log(2N - 1) minus NT-Xent is not: the two views of
    one image are no independent candidates).
    """
    here, everyone = torch.cat([first, second]), [gather(first), gather(second)]
    n, mine = len(everyone[0]), torch.arange(len(first), device=first.device) + rank() * len(first)
    logits = here @ torch.cat(everyone).T / temperature
    rows = torch.arange(len(here), device=here.device)
    own, other = torch.cat([mine, mine + n]), torch.cat([mine + n, mine])
    loss = F.cross_entropy(logits.index_put((rows, own), logits.new_tensor(-math.inf)), other)
    with torch.no_grad():
        halves = (logits[: len(first), n:], logits[len(first) :, :n])  # each view against the N others of the other side
        one_sided = torch.stack([F.cross_entropy(half, mine) for half in halves]).mean()
    return loss, one_sided
