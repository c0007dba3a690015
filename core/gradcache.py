"""Batches larger than memory: encoded in micro batches, compared as a whole.

Codes are small, but the activations between images and codes are large. So a micro batch is
encoded without keeping its activations, and is encoded once more in the backward pass. The
gradient is that of the whole batch, at the price of one more forward pass (GradCache, Gao et al.
2021; by torch's checkpointing). B = images on this process.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

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
    """encode(*inputs), rows [B, ...] to rows [B, ...], `size` rows at a time (0 = all).

    Value and gradient are those of one call, except that batch norms of `module` use the
    statistics of each micro batch. Running statistics are updated once per micro batch.
    """
    if not 0 < size < len(inputs[0]):
        return encode(*inputs)
    dtype = torch.get_default_dtype()
    parts = zip(*(x.split(size) for x in inputs), strict=True)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _second_pass(module, dtype)

    made = [checkpoint(encode, *part, use_reentrant=False, context_fn=contexts) for part in parts]
    return tuple(torch.cat(rows) for rows in zip(*made, strict=True))


@contextmanager
def _second_pass(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """As the first pass, but running statistics do not change: the first pass has updated them."""
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
