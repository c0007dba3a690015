"""A batch larger than memory: encoded in micro batches, compared as a whole.

What a method compares or averages (codes; rate and distortion) is small, and what lies between
images and codes is large. So codes are made of one micro batch at a time and nothing between is
kept; where the backward pass comes to a micro batch, it is encoded once more, with what lies
between. The gradient is that of the whole batch, for one more forward pass (GradCache, Gao et al.
2021; by torch's checkpointing). B = images on this process.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def in_micro_batches(
    encode: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Tensor, ...],
    size: int,
    module: nn.Module,
) -> tuple[Tensor, ...]:
    """encode(*inputs), rows [B, ...] to rows [B, ...], `size` rows at a time (0 = all): value and
    gradient of one call.

    Batch norms of `module` are the exception: their statistics are those of a micro batch. They
    remember each of them once.
    """
    if not 0 < size < len(inputs[0]):
        return encode(*inputs)
    dtype = torch.get_default_dtype()
    parts = zip(*(x.split(size) for x in inputs), strict=True)
    made = [
        checkpoint(
            encode,
            *part,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _again(module, dtype)),
        )
        for part in parts
    ]
    return tuple(torch.cat(rows) for rows in zip(*made, strict=True))


@contextmanager
def _again(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """As in the first pass, but what it does to running statistics is forgotten: the first pass has
    moved them already.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    kept = [dict(part.named_buffers(recurse=False)) for part in norms]
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    for part, buffers in zip(norms, kept, strict=True):
        part._buffers.update({name: buffer.clone() for name, buffer in buffers.items()})
    try:
        yield
    finally:
        torch.set_default_dtype(default)
        for part, buffers in zip(norms, kept, strict=True):
            part._buffers.update(buffers)
