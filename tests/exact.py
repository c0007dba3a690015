"""InfoNCE losses from float64 matrices of all scores, and the errors of our losses."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

# any number of codes, of any dimension and length
any_codes = given(
    n=st.integers(1, 23),
    k=st.integers(1, 40),
    d=st.integers(1, 19),
    temperature=st.sampled_from([0.01, 0.07, 0.3, 1.0]),
    norm=st.sampled_from([1.0, 1.0, 5.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 999),
)


def exact_queue(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    scores = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], 1) / temperature
    return F.cross_entropy(scores, torch.zeros(len(query), dtype=torch.long))


def exact_nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    both = torch.cat([first, second])
    scores = (both @ both.T / temperature).masked_fill(
        torch.eye(len(both), dtype=torch.bool), -torch.inf
    )
    return F.cross_entropy(scores, torch.arange(len(both)).roll(len(first)))


def exact_clip(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    scores, own = first @ second.T / temperature, torch.arange(len(first))
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def codes(n: int, d: int, seed: int, norm: float = 1.0) -> Tensor:
    """Rows of equal length. If there are enough, they include a zero vector and two pairs of
    duplicates.
    """
    x = norm * F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)
    if n > 6:
        x[1], x[3], x[5] = 0, x[2], x[4]
    return x


def errors(
    ours: Callable[..., Tensor],
    exact: Callable[..., Tensor],
    inputs: list[Tensor],
    temperature: float,
    floor: float = 0.0,
) -> tuple[float, float]:
    """The relative errors of the loss and of the gradient. The latter is relative to the length of
    the whole gradient, or to `floor` if that is larger.
    """
    narrow, wide = (
        [x.detach().clone().to(dtype).requires_grad_() for x in inputs]
        for dtype in (inputs[0].dtype, torch.float64)
    )
    loss, expected = ours(*narrow, temperature), exact(*wide, temperature)
    found = torch.cat(torch.autograd.grad(loss, narrow)).double()
    gradient = torch.cat(torch.autograd.grad(expected, wide))
    assert found.isfinite().all()
    return _relative(loss.double(), expected, 1e-6), _relative(found, gradient, max(floor, 1e-6))


def _relative(found: Tensor, exact: Tensor, floor: float) -> float:
    return ((found - exact).norm() / exact.norm().clamp(min=floor)).item()
