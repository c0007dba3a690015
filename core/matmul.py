"""Matrix products by the fastest library at hand: on a CPU that is oneDNN, about twice as fast as
torch's default on AMD.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def matmul(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a b^T + bias, [n, d] and [m, d] to [n, m], bias [m]; without gradient. For float32 on a CPU
    by oneDNN.

    Raises `ValueError` for other shapes, and for dtypes, devices or layouts that differ: oneDNN
    checks none of them and reads memory that is not the tensor's.
    """
    _check(a, b, bias)
    on_cpu = a.dtype == torch.float32 and a.device.type == "cpu"
    linear = _onednn() if on_cpu and a.numel() and b.numel() else None
    if linear is not None:
        # it reads a bias as if it lay in one piece
        return linear(_in_rows(a), _in_rows(b), None if bias is None else bias.contiguous())
    return a @ b.T if bias is None else torch.addmm(bias, a, b.T)


def _in_rows(x: Tensor) -> Tensor:
    """The matrix itself where its rows, or its columns, lie one behind the other; else a copy."""
    (n, d), (row, column) = x.shape, x.stride()
    plain = (column == 1 and row >= d) or (row == 1 and column >= n)
    return x if plain else x.contiguous()


def _check(a: Tensor, b: Tensor, bias: Tensor | None) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"matmul: [n, d] and [m, d] are wanted, got {list(a.shape)} and {list(b.shape)}"
        )
    if bias is not None and bias.shape != b.shape[:1]:
        raise ValueError(f"matmul: a bias [{len(b)}] is wanted, got {list(bias.shape)}")
    for other in (b,) if bias is None else (b, bias):
        if other.dtype != a.dtype or other.device != a.device:
            raise ValueError(
                f"matmul: {a.dtype} on {a.device} and {other.dtype} on {other.device} do not go"
                " together"
            )
        if a.layout != torch.strided or other.layout != torch.strided:
            raise ValueError("matmul: dense tensors are wanted")


@functools.cache
def _onednn() -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """oneDNN's matrix product where this torch has it, under the name that torch.compile calls it
    by.
    """
    try:
        linear = torch.ops.mkldnn._linear_pointwise
        ones = torch.ones(2, 3, dtype=torch.float32, device="cpu")
        right = torch.equal(linear(ones, ones, None, "none", [], ""), ones @ ones.T)
    except (AttributeError, RuntimeError, TypeError):
        return None
    return (lambda a, b, bias: linear(a, b, bias, "none", [], "")) if right else None


M = TypeVar("M", bound=nn.Module)


class Linear(nn.Linear):
    """torch's linear layer, its three products by oneDNN where they can be: in float32 on a CPU,
    without autocast and not compiled.
    """

    def forward(self, x: Tensor) -> Tensor:
        usual = (
            x.device.type != "cpu"
            or x.ndim < 2
            or x.dtype != torch.float32
            or self.weight.dtype != torch.float32
            or self.weight.device != x.device
        )
        if (
            usual
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()
            or _onednn() is None
        ):
            return super().forward(x)
        return _Linear.apply(x.flatten(0, -2), self.weight, self.bias).unflatten(0, x.shape[:-1])


class _Linear(torch.autograd.Function):
    """x [n, in], weight [out, in], bias [out] or None to x W^T + b. There is no second
    derivative.
    """

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
    """Every plain linear layer of a module as `Linear`: parameters, their names and what is
    computed stay as they are.
    """
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = Linear
    return module
