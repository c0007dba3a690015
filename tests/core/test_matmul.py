"""Products by oneDNN, and linear layers that use them, against torch's own in float64."""

import pytest
import torch
from torch import nn

from core.matmul import Linear, matmul, speed_up


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 3, 5), (300, 513, 50), (64, 1, 9)])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_equals_torchs(shape, transposed):
    n, d, m = shape
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(n, d, generator=g), torch.randn(m, d, generator=g)
    if transposed:
        a, b = a.T.contiguous().T, b.T.contiguous().T
    expected = a.double() @ b.double().T
    torch.testing.assert_close(matmul(a, b).double(), expected, rtol=1e-5, atol=1e-4)
    assert matmul(a.double(), b.double()).dtype == torch.float64
    bias = torch.randn(m, 2, generator=g)[:, 0]  # is not contiguous
    torch.testing.assert_close(matmul(a, b, bias).double(), expected + bias, rtol=1e-5, atol=1e-4)


def ones(*shape: int, **kind: object) -> torch.Tensor:
    return torch.ones(*shape, **kind)


@pytest.mark.parametrize(
    "a, b, bias",
    [
        (ones(4, 5, 6), ones(7, 6), None),
        (ones(4, 6), ones(3, 7, 6), None),
        (ones(6), ones(7, 6), None),
        (ones(4, 6), ones(()), None),
        (ones(4, 5), ones(7, 6), None),
        (ones(4, 6), ones(7, 6, dtype=torch.float64), None),
        (ones(4, 6, dtype=torch.float64), ones(7, 6), None),
        (ones(4, 6), ones(7, 6, device="meta"), None),
        (ones(4, 6).to_sparse(), ones(7, 6), None),
        (ones(4, 6), ones(7, 6), ones(3)),
        (ones(4, 6), ones(7, 6), ones(7, 1)),
        (ones(4, 6), ones(7, 6), ones(())),
        (ones(4, 6), ones(7, 6), ones(7, dtype=torch.float64)),
        (ones(4, 6), ones(7, 6), ones(7, device="meta")),
    ],
)
def test_invalid_products_are_refused(a, b, bias):
    """oneDNN alone would read beyond some of these tensors, and return a result."""
    with pytest.raises(ValueError, match="^matmul: "):
        matmul(a, b, bias)


@pytest.mark.parametrize("n, d, m", [(0, 6, 7), (4, 6, 0), (4, 0, 7), (0, 0, 0)])
def test_an_empty_product_equals_torchs(n, d, m):
    bias = torch.arange(float(m))
    assert torch.equal(matmul(ones(n, d), ones(m, d)), torch.zeros(n, m) + d)
    assert torch.equal(matmul(ones(n, d), ones(m, d), bias), torch.zeros(n, m) + d + bias)


def test_the_product_is_the_same_for_every_memory_layout():
    """Expanded, overlapping, strided and shifted tensors, and a lazy negation."""
    x = torch.randn(40, generator=torch.Generator().manual_seed(0))
    views = [
        x[:6].expand(4, 6),
        x[:4, None].expand(4, 6),
        x[:1, None].expand(4, 6),
        x.as_strided((4, 6), (3, 2)),
        x.as_strided((4, 6), (1, 1)),
        x[:24].view(6, 4).T,
        x[1:25].view(4, 6),
        torch.view_as_complex(x[:24].repeat(2).view(4, 6, 2)).conj().imag,
    ]
    for a in views:
        for b in views:
            expected = a.double() @ b.double().T
            torch.testing.assert_close(matmul(a, b).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(4,), (2, 3), (1,)])
def test_a_fast_layer_computes_and_learns_as_torchs(bias, lead):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(17, 9, bias=bias), nn.GELU(), nn.Linear(9, 3, bias=bias))
    fast = nn.Sequential(nn.Linear(17, 9, bias=bias), nn.GELU(), nn.Linear(9, 3, bias=bias))
    fast.load_state_dict(plain.state_dict())
    assert speed_up(fast) is fast and [type(layer) for layer in fast] == [Linear, nn.GELU, Linear]
    assert fast.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(*lead, 17)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [net(inp) for net, inp in zip((plain, fast), inputs, strict=True)]
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
    weight = torch.randn_like(outputs[0])
    for output in outputs:
        (output * weight).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-5, atol=1e-6)
    for a, b in zip(plain.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)


def test_elsewhere_a_fast_layer_is_torchs():
    layer = speed_up(nn.Linear(5, 3).double())
    assert torch.equal(
        layer(torch.ones(2, 5).double()),
        nn.functional.linear(torch.ones(2, 5).double(), layer.weight, layer.bias),
    )
    layer = speed_up(nn.Linear(5, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(2, 5)).dtype == torch.bfloat16
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(torch.ones(2, 5)), layer(torch.ones(2, 5)))
    frozen = speed_up(nn.Linear(5, 3).requires_grad_(False))
    x = torch.ones(2, 5, requires_grad=True)
    frozen(x).sum().backward()
    assert x.grad is not None and frozen.weight.grad is None
