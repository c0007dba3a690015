"""The losses in chunks and tiles against float64 matrices of all scores and torch's own
cross-entropy and autograd.
"""

import os
import subprocess
import sys
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import settings
from torch import Tensor

from contrastive.queue import KeyQueue
from core.distributed import rank, world
from core.information import chunked, in_batch
from core.information.losses import clip_loss, in_batch_loss, nt_xent_and_in_batch, queue_loss
from tests.exact import any_codes, codes, errors, exact_clip, exact_nt_xent, exact_queue
from tests.front_door import run_in_processes


def small_chunks():
    """Very small chunks and tiles, so that few codes need many of them, and the last ones are
    incomplete; one tile is kept, the others are computed again.
    """
    return mock.patch.multiple(chunked, ON_CPU=(3, 7, 15)), mock.patch.multiple(
        in_batch, ON_CPU=4, KEPT=16
    )


@settings(max_examples=150, deadline=None)
@any_codes
def test_any_number_of_any_vectors_equals_all_scores_in_float64(
    n, k, d, temperature, norm, dtype, seed
):
    first, second, queue = (
        codes(size, d, seed + part, norm).to(dtype) for part, size in enumerate((n, n, k))
    )
    scores = (
        norm**2 / temperature
    )  # the largest score: its size determines the rounding of scores, and so of probabilities
    limit = 1e-9 if dtype == torch.float64 else max(1e-6, 2.5e-7 * scores)
    contests = [
        (
            lambda q, key, t: queue_loss(q, key, queue, t),
            lambda q, key, t: exact_queue(q, key, queue.double(), t),
        ),
        (lambda a, b, t: nt_xent_and_in_batch(a, b, t)[0], exact_nt_xent),
        (clip_loss, exact_clip),
    ]
    whole, tiled = small_chunks()
    with whole, tiled:
        for ours, exact in contests:
            assert (
                max(
                    errors(
                        ours, exact, [first, second], temperature, floor=0.1 * norm / temperature
                    )
                )
                < limit
            )


@pytest.mark.parametrize(
    "temperature, limit", [(0.01, 3e-6), (0.05, 1e-6), (0.2, 1e-6), (1.0, 1e-6)]
)
def test_float32_in_training_sizes(temperature, limit):
    """The loss is within 1e-6 at any temperature. At 0.01 the gradient is as exact as float32's
    scores of 100 nats allow (torch's own: 1.2e-6).
    """
    first, second, queue = codes(200, 128, 0), codes(200, 128, 1), codes(5000, 128, 2)
    for ours, exact in [
        (
            lambda q, key, t: queue_loss(q, key, queue, t),
            lambda q, key, t: exact_queue(q, key, queue.to(q.dtype), t),
        ),
        (lambda a, b, t: nt_xent_and_in_batch(a, b, t)[0], exact_nt_xent),
        (clip_loss, exact_clip),
    ]:
        loss, gradient = errors(ours, exact, [first, second], temperature)
        assert loss < 1e-6 and gradient < limit


def test_a_small_loss_keeps_its_digits():
    """If the own key has by far the largest score, the sum over all candidates differs from its
    exponential by less than float32 can represent.
    """
    key, queue = codes(32, 64, 0)[6:], codes(500, 64, 1)
    loss, gradient = errors(
        lambda q, t: queue_loss(q, key, queue, t),
        lambda q, t: exact_queue(q, key.double(), queue.double(), t),
        [key],
        0.06,
    )
    assert exact_queue(key, key, queue, 0.06) < 1e-3 and loss < 1e-6 and gradient < 1e-6


def test_gradcheck():
    first, second, queue = (codes(n, 5, n).double().requires_grad_(n != 11) for n in (7, 7, 11))
    whole, tiled = small_chunks()
    with whole, tiled:
        assert torch.autograd.gradcheck(lambda q, k: queue_loss(q, k, queue, 0.3), (first, second))
        assert torch.autograd.gradcheck(
            lambda a, b: nt_xent_and_in_batch(a, b, 0.3)[0], (first, second)
        )
        assert torch.autograd.gradcheck(lambda a, b: clip_loss(a, b, 0.3), (first, second))
        assert torch.autograd.gradcheck(
            lambda a, b: clip_loss(a, b, 0.3, both=False), (first, second)
        )


def test_one_side_of_clip_and_a_learned_temperature():
    first, second = (codes(9, 6, seed).double().requires_grad_() for seed in (1, 2))
    scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    sides = [clip_loss(a, b, 0.25, both=False) for a, b in ((first, second), (second, first))]
    torch.testing.assert_close(torch.stack(sides).mean(), clip_loss(first, second, 0.25))
    torch.testing.assert_close(sides[0].detach(), in_batch_loss(first, second, 0.25))
    ours, exact = (
        torch.autograd.grad(loss, scale)[0]
        for loss in (clip_loss(first * scale, second, 1.0), exact_clip(first * scale, second, 1.0))
    )
    torch.testing.assert_close(ours, exact)


def test_the_queue_may_be_overwritten_before_the_backward_pass():
    query, key, queue = codes(8, 16, 0).requires_grad_(), codes(8, 16, 1), KeyQueue(50, 16)
    expected = torch.autograd.grad(exact_queue(query, key, queue.keys.clone(), 0.2), query)[0]
    storage = queue.keys.data_ptr()
    loss = queue_loss(query, key, queue.keys, 0.2)
    queue.enqueue(codes(70, 16, 2))
    loss.backward()
    torch.testing.assert_close(query.grad, expected)
    assert queue.keys.data_ptr() == storage


def test_there_is_no_second_derivative_and_no_work_without_a_gradient():
    first, second, queue = codes(4, 6, 0).requires_grad_(), codes(4, 6, 1), codes(9, 6, 2)
    for loss in (
        queue_loss(first, second, queue, 0.2),
        nt_xent_and_in_batch(first, second, 0.2)[0],
        clip_loss(first, second, 0.2),
    ):
        (gradient,) = torch.autograd.grad(loss * loss, first, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()
    with (
        torch.no_grad(),
        mock.patch.object(in_batch._Scored, "gradients", side_effect=AssertionError),
    ):
        assert not queue_loss(first, second, queue, 0.2).requires_grad
        assert not any(x.requires_grad for x in nt_xent_and_in_batch(first, second, 0.2))


@pytest.mark.parametrize("temperature", [0.05, 0.2])
def test_keys_in_bfloat16_cost_little(temperature):
    """K = 2^18. Rounding errors of different keys are independent, so they average out. The sums
    are float32 or wider: in bfloat16 they would stop at 256.
    """
    query, key = codes(16, 128, 0).requires_grad_(), codes(16, 128, 1)
    queue = F.normalize(torch.randn(2**18, 128, generator=torch.Generator().manual_seed(2)), dim=1)
    exact = exact_queue(query, key, queue, temperature)
    loss = queue_loss(query, key, queue.bfloat16(), temperature)
    assert loss.dtype == torch.float32 and abs(loss - exact) < 3e-4
    assert queue_loss(query.bfloat16(), key, queue.bfloat16(), temperature).dtype == torch.float32


@pytest.mark.parametrize("matmul", [chunked.matmul, lambda a, b: a @ b.T])
def test_with_and_without_onednn(matmul):
    first, second = codes(40, 16, 0), codes(40, 16, 1)
    with mock.patch.object(in_batch, "matmul", matmul):
        assert (
            max(
                errors(
                    lambda a, b, t: nt_xent_and_in_batch(a, b, t)[0],
                    exact_nt_xent,
                    [first, second],
                    0.1,
                )
            )
            < 1e-6
        )
    wide = torch.linspace(-1, 1, 17 * 9).view(17, 9)
    torch.testing.assert_close(matmul(wide.T, torch.ones(5, 17)), wide.sum(0)[:, None].expand(9, 5))


MEMORY = """
import core
from core.information.losses import nt_xent_and_in_batch, queue_loss
import torch, torch.nn.functional as F
from pathlib import Path
from scripts.benches.contest import peak

def queue(k):
    query = F.normalize(torch.randn(512, 128), dim=1).requires_grad_()
    keys = torch.randn(k, 128).div_(11)
    loss = lambda: queue_loss(query, query.detach(), keys, 0.1)
    return peak(lambda: torch.autograd.grad(loss(), query), torch.device("cpu"))

views = [F.normalize(torch.randn(3000, 128), dim=1).requires_grad_() for _ in range(2)]
loss = lambda: nt_xent_and_in_batch(*views, 0.5)[0]
batch = peak(lambda: torch.autograd.grad(loss(), views), torch.device("cpu"))
print(queue(2**14), queue(2**18), batch)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_queue_nor_with_the_square_of_the_batch():
    """Scores of 512 x 2^18 would be 512 MiB, of 6,000 x 6,000 137 MiB."""
    environment = dict(os.environ, MALLOC_TRIM_THRESHOLD_="0", OMP_NUM_THREADS="1")
    told = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, env=environment, check=True
    )
    short, long, batch = (int(word) / 2**20 for word in told.stdout.split())
    assert short < 24 and long < 24 and batch < 64


def process(number: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=3)
    assert (rank(), world()) == (number, 3)
    rows = slice(5 * number, 5 * number + 5)
    found = []
    with mock.patch.object(in_batch, "ON_CPU", 2):
        for loss_of in (nt_xent_with_bound, clip_loss):
            weights = torch.eye(6, dtype=torch.float64).requires_grad_()
            loss = loss_of(*(codes(15, 6, seed).double()[rows] @ weights for seed in (1, 2)), 0.3)
            loss.backward()
            dist.all_reduce(weights.grad)
            loss = loss.detach().clone()
            dist.all_reduce(loss)
            found += [loss / 3, weights.grad / 3]
    if number == 0:
        torch.save(found, f"{folder}/found")
    dist.destroy_process_group()


def nt_xent_with_bound(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    loss, one_sided = nt_xent_and_in_batch(first, second, temperature)
    return loss + one_sided  # which has no gradient


def test_three_processes_with_many_tiles_each_give_the_loss_and_the_gradient_of_one(tmp_path):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    run_in_processes(process, 3, str(tmp_path))
    found = torch.load(tmp_path / "found", weights_only=True)
    for number, exact in enumerate(
        (lambda a, b, t: exact_nt_xent(a, b, t) + exact_clip(a, b, t).detach(), exact_clip)
    ):
        weights = torch.eye(6, dtype=torch.float64).requires_grad_()
        loss = exact(*(codes(15, 6, seed).double() @ weights for seed in (1, 2)), 0.3)
        loss.backward()
        torch.testing.assert_close(found[2 * number], loss.detach())
        torch.testing.assert_close(found[2 * number + 1], weights.grad)
