"""Random numbers as a function of seed, step, purpose and place in the global batch."""

import time

import numpy as np
import pytest
import torch
from scipy import stats

from core.randomness import KeyedRNG
from core.transfer import send

KINDS = {
    "uniform": lambda rng, n: rng.uniform("x", n, 3, 5),
    "normal": lambda rng, n: rng.normal("x", n, 3, 5),
    "integers": lambda rng, n: rng.integers("x", 1000, n, 7),
}


def test_the_generator_is_philox_4x64_10():
    """The first block of counter 0 under key 0, from the known answers of Random123."""
    rng = KeyedRNG(0, 0)
    generator = rng._generator("x", 5)
    state = generator.state["state"]
    known = np.random.Philox(key=0, counter=2**256 - 1)
    assert [hex(word) for word in known.random_raw(4).tolist()] == [
        "0x16554d9eca36314c",
        "0xdb20fe9d672d0fdc",
        "0xd7e772cee186176b",
        "0x7e68b68aec7ba23b",
    ]
    assert state["counter"].tolist() == [4, 0, 0, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [2, 3, 8])
def test_a_process_makes_its_rows_of_the_global_batch(kind, world):
    whole = KINDS[kind](KeyedRNG(1, 2), 24)
    parts = [KINDS[kind](KeyedRNG(1, 2, rank, world), 24 // world) for rank in range(world)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("kind", KINDS)
def test_seed_step_purpose_and_fork_each_change_every_number(kind):
    def draw(rng):
        return KINDS[kind](rng, 64).flatten().double()

    first = draw(KeyedRNG(0, 0))
    assert torch.equal(first, draw(KeyedRNG(0, 0)))
    others = [draw(rng) for rng in (KeyedRNG(1, 0), KeyedRNG(0, 1), KeyedRNG(0, 0).fork("a"))]
    for other in others:
        assert (first == other).double().mean() < 0.02
        assert abs(torch.corrcoef(torch.stack([first, other]))[0, 1]) < 0.15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_follow_their_distributions(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        rng = KeyedRNG(3, 1)
        uniform, normal = (draw("x", 500, 201) for draw in (rng.uniform, rng.normal))
    finally:
        torch.set_default_dtype(before)
    assert uniform.dtype == normal.dtype == dtype and normal.isfinite().all()
    assert 0 <= uniform.min() < 1e-3 and 0.999 < uniform.max() < 1
    assert stats.kstest(uniform.flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > 1e-3
    # neighbours in a row share a pair of uniform numbers
    assert (
        abs(torch.corrcoef(normal[:, :200].T)[torch.triu_indices(200, 200, 1).unbind()]).mean()
        < 0.05
    )
    counts = rng.integers("i", 7, 70_000).bincount(minlength=7)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_a_permutation_is_the_same_on_every_process():
    first, second = (KeyedRNG(5, 3, rank, 2).permutation("order", 1000) for rank in (0, 1))
    assert torch.equal(first, second) and torch.equal(first.sort().values, torch.arange(1000))
    assert not torch.equal(first, KeyedRNG(5, 4).permutation("order", 1000))


def test_drawing_costs_the_same_for_any_number_of_processes():
    """A process computes only the words of its own rows."""

    def seconds(world):
        times = []
        for step in range(30):
            start = time.perf_counter()
            KeyedRNG(0, step, world - 1, world).uniform("x", 512, 40)
            times.append(time.perf_counter() - start)
        return sorted(times)[0]

    ratios = [seconds(64) / seconds(1) for _ in range(5)]
    assert sorted(ratios)[2] < 1.5


def test_tensors_are_packed_for_one_copy_and_arrive_unchanged(monkeypatch):
    tensors = [
        torch.arange(5),
        torch.rand(3, 2),
        torch.tensor([True, False, True]),
        torch.rand(4, 1).double().mT,
        torch.zeros(0, 3),
        torch.tensor(7, dtype=torch.uint8),
    ]
    copies = []
    empty, to = torch.empty, torch.Tensor.to

    def unpinned(*size, pin_memory, **given):
        assert pin_memory
        return empty(*size, **given)

    def moved(x, *where, non_blocking=False):
        copies.append(non_blocking)
        return x

    with monkeypatch.context() as patched:  # a "GPU" in this machine's memory
        patched.setattr(torch, "empty", unpinned)
        patched.setattr(torch.Tensor, "to", moved)
        found = send(tensors, torch.device("cuda"))
    assert copies == [True] and torch.Tensor.to is to
    for sent, got in zip(tensors, found, strict=True):
        assert sent.dtype == got.dtype and torch.equal(sent, got)


def test_numbers_that_processes_share_are_those_of_one_purpose():
    """`common` leaves out the place among the processes, and nothing else."""
    ways = [KeyedRNG(0, 7, rank, world).fork("a") for rank, world in ((0, 1), (1, 2), (3, 4))]
    first, *rest = (rng.common().normal("x", 5) for rng in ways)
    assert all(torch.equal(first, other) for other in rest)
    others = [KeyedRNG(0, 7).fork("b"), KeyedRNG(0, 8).fork("a"), KeyedRNG(1, 7).fork("a")]
    assert not any(torch.equal(first, rng.common().normal("x", 5)) for rng in others)
    assert not torch.equal(first, KeyedRNG(0, 7).common().normal("x", 5))
