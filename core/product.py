"""Matrix products without gradient, by the fastest library at hand."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b^T, [n, d] and [m, d] to [n, m]; without gradient. For float32 on a CPU by oneDNN, twice as fast as torch's default on AMD."""
    linear = _onednn() if a.dtype == torch.float32 and a.device.type == "cpu" else None
    return a @ b.T if linear is None else linear(a, b)


@functools.cache
def _onednn() -> Callable[[Tensor, Tensor], Tensor] | None:
    """oneDNN's matrix product where this torch has it, under the name that torch.compile calls it by."""
    try:
        linear = torch.ops.mkldnn._linear_pointwise
        ones = torch.ones(2, 3, dtype=torch.float32, device="cpu")
        right = torch.equal(linear(ones, ones, None, "none", [], ""), ones @ ones.T)
    except (AttributeError, RuntimeError, TypeError):
        return None
    return (lambda a, b: linear(a, b, None, "none", [], "")) if right else None
