"""The InfoNCE losses that train contrastive encoders.

    L = E[ -log( exp s(q, k+) / sum_c exp s(q, k_c) ) ],   s(q, k) = <q, k> / T,   in nats

N = pairs in the global batch, B = pairs on this process, K = queued negatives, D = dimensions.
Each docstring says what its loss may claim about I(V1; V2); the probe, not the training loss,
reports a bound. Losses are computed without a matrix of all scores. (A GPU holds up to 2^26 scores
at once, because this needs fewer operators.) The gradient is computed together with the loss, and
there is no second derivative. Codes usually have unit length, but need not.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.batch import at_least_float32
from core.distributed import gather, rank, world
from core.information.chunked import QueueInfoNCE
from core.information.in_batch import InBatch, Layout

P = ParamSpec("P")
R = TypeVar("R")


def in_float32(loss: Callable[P, R]) -> Callable[P, R]:
    """Run a loss outside of autocast, because bfloat16 has fewer than three decimal digits. The
    loss itself converts its arguments to float32 or wider.
    """

    @functools.wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast(args[0].device.type, enabled=False):  # type: ignore[attr-defined]
            return loss(*args, **kwargs)

    return wrapped


@in_float32
def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.1) -> Tensor:
    """NT-Xent (Chen et al. 2020) of two views of N images, to be minimised:

        L = mean over all 2N views of  -log( exp s(i, own) / sum_{k != i} exp s(i, k) ),
        s(i, k) = cos(z_i, z_k) / T,   in nats

    first, second [B, D]: the projections of the two views of the same images, of any length (they
    are normalised here). Returns a scalar with gradients to both. With several processes, the
    candidates are those of the global batch. Scores are float32 or wider, even under autocast.
    log(2N - 1) - L is not a bound on mutual information; `infonce` gives one. `ValueError` for
    invalid shapes or temperatures.

    >>> import torch
    >>> views = torch.eye(4), torch.eye(4)
    >>> nt_xent(*views, temperature=0.5)  # log(1 + 6 exp(-2))
    tensor(0.5944)
    """
    return nt_xent_and_in_batch(*_directions(first, second, temperature), temperature)[0]


@in_float32
def infonce(
    query: Tensor, key: Tensor, temperature: float = 0.1, queue: Tensor | None = None
) -> Tensor:
    """InfoNCE (van den Oord et al. 2018), to be minimised:

        L = -E log( exp s(q, k+) / sum_c exp s(q, k_c) ),   s(q, k) = cos(q, k) / T,   in nats

    query, key [B, D]: row i of both is a pair. They may have any length (they are normalised here).
    The candidates of a query are the keys of the global batch (C = N) or, with `queue` [K, D], its
    own key and the queue (C = K + 1), as in MoCo. Returns a scalar with gradients to query and key.
    Without a queue, on images that encoder and critic have not seen, log C - L is a lower bound on
    I(X; Y); `probes.infonce_bound` adds an interval. `ValueError` for invalid shapes or
    temperatures.

    >>> import math, torch
    >>> loss = infonce(torch.eye(4), torch.eye(4), temperature=0.1)
    >>> round(math.log(4) - loss.item(), 3)  # never above log 4 = 1.386
    1.386
    """
    first, second = _directions(query, key, temperature)
    if queue is None:
        return clip_loss(first, second, temperature, both=False)
    if queue.ndim != 2 or queue.shape[1] != first.shape[1]:
        raise ValueError(f"queue {tuple(queue.shape)}: give [K, {first.shape[1]}]")
    return queue_loss(first, second, F.normalize(at_least_float32(queue), dim=1), temperature)


def _directions(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Both, scaled to unit length. `ValueError` if they are not pairs, or for a bad temperature."""
    if first.ndim != 2 or first.shape != second.shape or not len(first):
        shapes = " and ".join(str(tuple(x.shape)) for x in (first, second))
        raise ValueError(
            f"views of shapes {shapes}: give two of the same shape [B, D], with one row per pair"
        )
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature: must be above 0, got {temperature}")
    both = _Unit.apply(torch.cat([at_least_float32(first), at_least_float32(second)]))
    a, b = both.chunk(2)
    return a, b


class _Unit(torch.autograd.Function):
    """Scales rows to unit length, as F.normalize does. The gradient takes four operators, and there
    is no second derivative.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_(min=1e-12)
        unit = x / norm
        ctx.save_for_backward(unit, norm)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        unit, norm = ctx.saved_tensors
        along = (grad * unit).sum(1, keepdim=True)
        return torch.addcmul(grad, unit, along, value=-1).div_(norm)


def queue_loss(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """MoCo's loss (He et al. 2020): the own key against K queued negatives, K + 1 candidates.

    query, key [B, D]; queue [K, D] in any precision, without gradient; it may be overwritten before
    the backward pass. Returns a scalar. In training, log(K + 1) - L is not a bound: the queued keys
    come from older encoders, so they are not draws from the marginal distribution of the present
    key.

    Under autocast on a GPU, queries and queue of unit length may be rounded to float16 for flash
    attention, if that changes the loss by less than 3e-4 nats (`core.information.flash`).
    """
    half = torch.is_autocast_enabled(query.device.type)
    with torch.autocast(query.device.type, enabled=False):
        return QueueInfoNCE.apply(*_tracked(query, key), queue.detach(), 1 / temperature, half)


@in_float32
@torch.no_grad()
def in_batch_loss(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    """One direction of `clip_loss`: N candidates, no gradient.

    query, key [B, D]; returns a scalar. log N - L has the form of a valid lower bound, because the
    keys of other images are independent draws from one encoder. It is a bound only if encoder and
    critic have not seen the images.
    """
    return clip_loss(query, key, temperature, both=False)


@in_float32
def clip_loss(first: Tensor, second: Tensor, temperature: float, both: bool = True) -> Tensor:
    """CLIP's loss (Radford et al. 2021): each code of `first` against all codes of `second`
    in the global batch; with `both`, the mean of this and the reverse direction.

    first, second [B, D]; returns a scalar with gradients to both. For a learned temperature, pass
    first / T and 1.
    """
    first, second = _tracked(first, second)
    # with one process, one pass serves both directions
    sides = [(first, second)] + ([(second, first)] if both and world() > 1 else [])
    layout = Layout(len(first), 1, world(), rank(), both=both and world() == 1)
    losses = [InBatch.apply(query, gather(key), 1 / temperature, layout)[0] for query, key in sides]
    return torch.stack(losses).mean()


@in_float32
def nt_xent_and_in_batch(
    first: Tensor, second: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """NT-Xent (Chen et al. 2020): 2N views, each with 2N - 1 candidates (all but itself).

    first, second [B, D]; returns the loss and, without gradient, the one-sided in-batch loss with N
    candidates. log N minus the one-sided loss is a valid lower bound for a critic that has not seen
    the batch. (log(2N - 1) minus NT-Xent is not a bound: the two views of an image are not
    independent.)
    """
    first, second = _tracked(first, second)
    here = torch.cat([first, second])
    everyone = torch.cat([gather(first), gather(second)]) if world() > 1 else here
    return InBatch.apply(here, everyone, 1 / temperature, Layout(len(first), 2, world(), rank()))


def _tracked(*codes: Tensor) -> list[Tensor]:
    """Codes as float32 or wider, detached if no gradient is wanted."""
    wide = [at_least_float32(x) for x in codes]
    return wide if torch.is_grad_enabled() else [x.detach() for x in wide]
