"""The queue's loss by flash attention, with the operator's CPU version, against float64 matrices of
all scores.
"""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from contrastive.queue import KeyQueue
from core.information import chunked, flash
from core.information.losses import queue_loss
from tests.exact import codes, errors, exact_queue

CPU = torch.device("cpu")


def here(dtype: torch.dtype = flash.HALF, **constants: object):
    """Flash attention on the CPU, in any precision; `constants` divide few keys into many parts and
    chunks.
    """
    return mock.patch.multiple(flash, DEVICES=("cpu",), HALF=dtype, **constants)


def in_half(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """The loss as half-precision training calls it; checks that flash attention computed it."""
    with (
        torch.autocast("cpu", torch.bfloat16),
        mock.patch.object(chunked, "_of_rows", side_effect=AssertionError),
    ):
        return queue_loss(query, key, queue, temperature)


def exactly(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, ...]:
    """Attention on rounded vectors, without any other rounding."""
    scores = scale * query.double() @ keys.double().mT
    return scores.softmax(-1) @ values.double(), scores.logsumexp(-1)


@pytest.mark.parametrize(
    "n, k, d", [(1, 1, 128), (300, 64, 37), (300, 103, 128), (7, 200, 8), (1, 130, 37), (50, 5, 3)]
)
@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("most", [2**23, 2**12])
def test_merged_parts_and_chunks_of_any_length_equal_one_pass(n, k, d, temperature, most):
    """Float64 is not rounded, so only splitting, padding, scaling and merging can be wrong."""
    # a view with any strides is accepted
    query, keys = codes(n, d, 0), codes(k, d, 1).T.contiguous().T
    with here(torch.float64, MOST=most, ROWS=64, BLOCKS=40, LEAST=9):
        total, mean = flash.softmax_mean(query, keys, 1 / temperature)
    scores = query.double() @ keys.double().T / temperature
    torch.testing.assert_close(total, scores.logsumexp(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mean, scores.softmax(1) @ keys.double(), rtol=1e-9, atol=1e-12)


def test_keys_are_split_so_that_blocks_fill_the_device_and_none_is_lost_or_copied():
    keys = torch.arange(8 * 65_537.0).view(-1, 8)
    whole, rest = flash._parts(keys, 256)
    assert whole.shape == (128, 1, 512, 8) and rest.shape == (
        1,
        1,
        1,
        8,
    )  # two blocks of queries, 128 parts
    assert whole.data_ptr() == keys.data_ptr() and rest.data_ptr() == keys[65_536:].data_ptr()
    assert [part.shape for part in flash._parts(keys[:65_536], 256)] == [(128, 1, 512, 8)]
    assert [part.shape for part in flash._parts(keys[:4096], 512)] == [
        (8, 1, 512, 8)
    ]  # not shorter than pays
    assert [part.shape for part in flash._parts(keys[:3], 9999)] == [(1, 1, 3, 8)]


@pytest.mark.parametrize("n, k, d", [(300, 5003, 128), (300, 4096, 37)])
@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_loss_and_gradient_in_float32(n, k, d, temperature):
    """By queue_loss, with duplicates and zero vectors; at T = 0.01 as exact as float32's scores of
    100 nats allow.
    """
    first, second, queue = codes(n, d, 0), codes(n, d, 1), codes(k, d, 2)
    with here(torch.float32):
        loss, gradient = errors(
            lambda q, key, t: in_half(q, key, queue, t),
            lambda q, key, t: exact_queue(q, key, queue.double(), t),
            [first, second],
            temperature,
        )
    assert loss < 1e-6 and gradient < 3e-6


@pytest.mark.parametrize(
    "n, d, temperature", [(300, 128, 0.03), (300, 37, 0.1), (300, 128, 0.2), (1, 128, 0.5)]
)
def test_loss_and_gradient_in_half_precision(n, d, temperature):
    first, second, queue = codes(n, d, 0), codes(n, d, 1), codes(5003, d, 2)
    with here():
        narrow = [x.clone().requires_grad_() for x in (first, second)]
        loss = in_half(*narrow, queue, temperature)
        found = torch.autograd.grad(loss, narrow)
    wide = [x.double().requires_grad_() for x in (first, second)]
    exact = exact_queue(*wide, queue.double(), temperature)
    assert loss.dtype == torch.float32 and abs(loss - exact) < flash.LIMIT
    for mine, wanted in zip(found, torch.autograd.grad(exact, wide), strict=True):
        assert mine.dtype == torch.float32 and (mine - wanted).norm() < 2e-3 * wanted.norm()


def test_the_ring_may_be_overwritten_before_the_backward_pass():
    query, key, queue = codes(8, 16, 0).requires_grad_(), codes(8, 16, 1), KeyQueue(50, 16)
    expected = torch.autograd.grad(exact_queue(query, key, queue.keys.clone(), 1.0), query)[0]
    with here():
        loss = in_half(
            query, key, queue.keys.half(), 1.0
        )  # a queue in the kernel's own precision is read without a copy
        ring = in_half(query, key, queue.keys, 1.0)
    queue.enqueue(codes(70, 16, 2))
    for of in (loss, ring):
        torch.testing.assert_close(
            torch.autograd.grad(of, query)[0], expected, rtol=0, atol=1e-3 * expected.norm().item()
        )


@pytest.mark.parametrize("n, k, d", [(256, 65_536, 128), (300, 5003, 37)])
def test_the_shapes_of_the_gpus_operator(n, k, d):
    """Shapes only, because values need a GPU: torch's own description of the operator that is
    called there.
    """
    query, keys = torch.empty(n, d, device="meta"), torch.empty(k, d, device="meta")
    with mock.patch.object(
        flash, "kernel", lambda device: torch.ops.aten._scaled_dot_product_flash_attention
    ):
        total, mean = flash.softmax_mean(query, keys, 10.0)
    assert (
        total.shape == (n,)
        and total.dtype == torch.float32
        and mean.shape == (n, d)
        and mean.dtype == torch.float32
    )


def simulated(temperature: float, dtype: torch.dtype, near: bool) -> Tensor:
    """Errors [N] of log-sum-exps by flash attention if only queries and keys are rounded; each
    query may have a near key.
    """
    query, keys = (
        F.normalize(torch.randn(n, 128, generator=torch.Generator().manual_seed(n)), dim=1)
        for n in (256, 4096)
    )
    if near:
        keys[:256] = F.normalize(query + 0.3 * keys[:256], dim=1)
    with here(dtype), mock.patch.object(flash, "kernel", lambda device: exactly):
        found, _ = flash.softmax_mean(query, keys, 1 / temperature)
    return found - (query.double() @ keys.double().T / temperature).logsumexp(1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.01, 0.02, 0.05, 0.1, 0.2])
def test_the_rule_for_rounding_holds(temperature, dtype):
    """The rule bounds the worst case. It is far above the error with random keys, but not too
    loose: at T = 0.01 the spread is over a third of it.
    """
    with here(dtype):
        bound = flash.error(1 / temperature, 256, 128)
    worst, random = (
        simulated(temperature, dtype, near=True),
        simulated(temperature, dtype, near=False),
    )
    assert abs(worst.mean()) < bound and abs(random.mean()) < bound / 3
    spread = 3 * worst.square().mean().sqrt() / 16
    assert spread < bound and (temperature > 0.01 or spread > bound / 3)


def test_rounding_of_queries_is_corrected():
    """With keys that are exact in float16, only the query is rounded, and after the correction only
    the square of its error remains.
    """
    query, keys = codes(64, 128, 0), codes(4096, 128, 1).half()
    with here(), mock.patch.object(flash, "kernel", lambda device: exactly):
        total, _ = flash.softmax_mean(query, keys, 20.0)
        plain, _ = flash.softmax_mean(query.half().float(), keys, 20.0)
    exact = (20 * query.double() @ keys.double().T).logsumexp(1)
    assert (total - exact).abs().max() < 1e-6 < 1e-5 < (plain - exact).abs().max()


@pytest.mark.parametrize(
    "n, d, temperature, dtype, yes",
    [
        (256, 128, 0.03, torch.float32, True),
        (256, 128, 0.01, torch.float32, False),  # rounding might cost 8e-4 nats
        (1, 128, 0.1, torch.float32, False),  # nothing to average over
        (256, 257, 0.1, torch.float32, False),
        (256, 128, 0.1, torch.float64, False),
    ],
)
def test_it_is_used_if_it_is_available_and_exact_enough(n, d, temperature, dtype, yes):
    query, keys = torch.zeros(n, d, dtype=dtype), torch.zeros(16, d, dtype=dtype)
    assert not flash.serves(query, keys, 1 / temperature)  # on a CPU, never
    with here():
        assert flash.serves(query, keys, 1 / temperature) is yes
        with mock.patch.object(flash, "kernel", lambda device: None):
            assert not flash.serves(query, keys, 1 / temperature)


def test_training_in_float32_keeps_the_chunks():
    query, key, queue = codes(64, 32, 0), codes(64, 32, 1), codes(100, 32, 2)
    exact = queue_loss(query, key, queue, 0.2)
    with here(), mock.patch.object(flash, "softmax_mean", side_effect=AssertionError):
        assert torch.equal(queue_loss(query, key, queue, 0.2), exact)
        for off in (
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", torch.float16, enabled=False),
        ):
            with off:
                assert torch.equal(queue_loss(query, key, queue, 0.2), exact)
        with pytest.raises(AssertionError), torch.autocast("cpu", torch.bfloat16):
            queue_loss(query, key, queue, 0.2)


@pytest.mark.parametrize("precision, yes", [("bf16-mixed", True), ("32-true", False)])
def test_the_precision_of_training_decides_whether_flash_attention_is_used(precision, yes):
    """As in a training run: Fabric's mixed precision is autocast around `forward`."""

    class Method(torch.nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            code = F.normalize(super().forward(x).float(), dim=1)
            return queue_loss(code, code.detach(), x, 0.5)

    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    model = fabric.setup_module(Method(32, 32))
    with here(), mock.patch.object(flash, "softmax_mean", wraps=flash.softmax_mean) as taken:
        fabric.backward(model(codes(64, 32, 0)))
    assert bool(taken.call_count) is yes


def test_a_torch_without_the_operator_or_with_another_meaning_falls_back_to_chunks():
    name, of = "_scaled_dot_product_flash_attention_for_cpu", flash.kernel.__wrapped__
    attend = of(CPU)
    assert attend is getattr(torch.ops.aten, name)

    def in_powers_of_two(*given: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        mean, total = attend(*given, scale=scale)
        return mean, total / 0.693

    def without_scale(*given: Tensor) -> tuple[Tensor, Tensor]:
        return attend(*given)

    def refused(*given: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")

    for other in (in_powers_of_two, without_scale, refused):
        with mock.patch.object(torch.ops.aten, name, other):
            assert of(CPU) is None
    assert of(torch.device("meta")) is None
