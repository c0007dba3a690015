"""Matrix products by oneDNN on CPUs: on AMD processors about twice as fast as torch's default."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def matmul(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a b^T + bias as [n, m], for a [n, d], b [m, d] and bias [m]. It has no gradient. oneDNN
    computes it for float32 on a CPU.

    Raises `ValueError` for other shapes and for different dtypes, devices or layouts: oneDNN does
    not check them and would read memory outside of the tensors.
    """
    _check(a, b, bias)
    on_cpu = a.dtype == torch.float32 and a.device.type == "cpu"
    linear = _onednn() if on_cpu and a.numel() and b.numel() else None
    if linear is not None:
        # oneDNN reads a bias as contiguous memory
        return linear(_in_rows(a), _in_rows(b), None if bias is None else bias.contiguous())
    return a @ b.T if bias is None else torch.addmm(bias, a, b.T)


def _in_rows(x: Tensor) -> Tensor:
    """The matrix itself if its rows or columns are contiguous, else a copy."""
    (n, d), (row, column) = x.shape, x.stride()
    plain = (column == 1 and row >= d) or (row == 1 and column >= n)
    return x if plain else x.contiguous()


def _check(a: Tensor, b: Tensor, bias: Tensor | None) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"matmul: needs [n, d] and [m, d], got {list(a.shape)}, {list(b.shape)}")
    if bias is not None and bias.shape != b.shape[:1]:
        raise ValueError(f"matmul: needs a bias [{len(b)}], got {list(bias.shape)}")
    for other in (b,) if bias is None else (b, bias):
        if other.dtype != a.dtype or other.device != a.device:
            given = f"{a.dtype} on {a.device} and {other.dtype} on {other.device}"
            raise ValueError(f"matmul: {given} do not match")
        if a.layout != torch.strided or other.layout != torch.strided:
            raise ValueError("matmul: needs dense tensors")


@functools.cache
def _onednn() -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """oneDNN's matrix product under the name that torch.compile uses; None if it is missing."""
    try:
        linear = torch.ops.mkldnn._linear_pointwise
        ones = torch.ones(2, 3, dtype=torch.float32, device="cpu")
        right = torch.equal(linear(ones, ones, None, "none", [], ""), ones @ ones.T)
    except (AttributeError, RuntimeError, TypeError):
        return None
    return (lambda a, b, bias: linear(a, b, bias, "none", [], "")) if right else None


M = TypeVar("M", bound=nn.Module)


class Linear(nn.Linear):
    """torch's linear layer. Uncompiled float32 on a CPU, without autocast, uses oneDNN."""

    def forward(self, x: Tensor) -> Tensor:
        onednn = (
            x.device.type == "cpu"
            and x.ndim >= 2
            and x.dtype == self.weight.dtype == torch.float32
            and self.weight.device == x.device
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and _onednn() is not None
        )
        if not onednn:
            return super().forward(x)
        return _Linear.apply(x.flatten(0, -2), self.weight, self.bias).unflatten(0, x.shape[:-1])


class _Linear(torch.autograd.Function):
    """x [n, in], weight [out, in], bias [out] or None to x W^T + b; no second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return matmul(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        by_x = matmul(grad, weight.T) if ctx.needs_input_grad[0] else None
        by_weight = matmul(grad.T, x.T) if ctx.needs_input_grad[1] else None
        return by_x, by_weight, grad.sum(0) if ctx.needs_input_grad[2] else None


def speed_up(module: M) -> M:
    """Make every linear layer of a module a `Linear`; parameters and results do not change."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = Linear
    return module
