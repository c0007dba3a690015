"""Communication between processes: all ranks see all candidates, and metrics are global.

B = rows on this process, W = processes, D = dimensions.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import torch.distributed.nn.functional as differentiable
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

# torch's new functions change their names from release to release. These old ones exist in all
# releases that setup.cfg allows.
warnings.filterwarnings(
    "ignore", r"torch\.distributed\.nn\.functional\.\w+ is deprecated", FutureWarning
)

T = TypeVar("T")

_single_process = False


def world() -> int:
    """The number of processes; 1 if none were launched."""
    distributed = not _single_process and dist.is_available() and dist.is_initialized()
    return dist.get_world_size() if distributed else 1


def rank() -> int:
    """The number of this process, starting at 0."""
    return dist.get_rank() if world() > 1 else 0


@contextmanager
def single_process() -> Iterator[None]:
    """Within this context world() is 1. It is for work that one process does while the others wait,
    such as validation.
    """
    global _single_process
    _single_process, before = True, _single_process
    try:
        yield
    finally:
        _single_process = before


def in_parts(x: object) -> "TypeGuard[DTensor]":
    """Whether a tensor is divided among processes, that is, whether it is torch's DTensor. The
    class is not imported for this check, because its import takes half a second.
    """
    return hasattr(x, "full_tensor")


def gather(x: Tensor) -> Tensor:
    """Rows of all processes in rank order, [B, D] to [W B, D], differentiable.

    The backward pass sums the gradients of all ranks' losses. After DDP's mean over ranks this is
    exactly the gradient of the mean loss of one process with the whole batch.
    """
    if world() == 1:
        return x
    if x.requires_grad and torch.is_grad_enabled():
        return torch.cat(differentiable.all_gather(x.contiguous()))
    parts = [torch.empty_like(x) for _ in range(world())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


class _Sum(torch.autograd.Function):
    """The sum over processes and its gradient. Functional collectives can be compiled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        everyone = dist.group.WORLD
        assert everyone is not None
        return functional.all_reduce(x.contiguous(), "sum", everyone)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


def total(x: Tensor) -> Tensor:
    """The sum of a tensor over processes, differentiable like `gather`."""
    return x if world() == 1 else _Sum.apply(x)


def mean(x: Tensor) -> Tensor:
    """The mean of a tensor over processes, differentiable like `gather`."""
    return total(x) / world()


def gather_round_robin(mine: list[T]) -> list[T]:
    """All items in order, on every process; process i computed items i, i + W, i + 2 W, ..."""
    if world() == 1:
        return mine
    everyone: list[list[T]] = [[] for _ in range(world())]
    dist.all_gather_object(everyone, mine)
    return [everyone[i % world()][i // world()] for i in range(sum(map(len, everyone)))]


def mean_over_ranks(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """The mean of each named number over processes. Means of local batches become means of the
    global batch.
    """
    means = mean(torch.tensor(list(values.values()), dtype=torch.float64, device=device))
    return dict(zip(values, means.tolist(), strict=True))
