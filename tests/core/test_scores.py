"""Sums over candidates, tile by tile, against whole matrices."""

import math
import subprocess
import sys

import pytest
import torch

from core.information import scores

N = 53


@pytest.fixture(params=["codes", "matrix"])
def made(request, monkeypatch):
    """Scores in tiles that do not divide the sizes evenly, and the same scores as one matrix."""
    monkeypatch.setattr(scores, "ROWS", 7)
    monkeypatch.setattr(scores, "COLUMNS", 11)
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(N, 5, generator=g, dtype=torch.float64) for _ in range(2))
    whole = 2.0 * q @ k.T
    return (
        scores.paired(q, k, 2.0) if request.param == "codes" else scores.of_matrix(whole)
    ), whole


def others(whole: torch.Tensor) -> torch.Tensor:
    return whole.masked_fill(torch.eye(N, dtype=torch.bool), -math.inf)


def test_sums_over_negatives(made):
    read, whole = made
    torch.testing.assert_close(read.own, whole.diagonal())
    torch.testing.assert_close(read.others, others(whole).logsumexp(1))
    spared = (torch.arange(N) + 1) % N
    torch.testing.assert_close(read.spare, whole[torch.arange(N), spared])
    rest = others(whole).index_put(
        (torch.arange(N), spared), torch.tensor(-math.inf, dtype=torch.float64)
    )
    torch.testing.assert_close(read.rest, rest.logsumexp(1))
    torch.testing.assert_close(read.mean(), (whole.sum(1) - whole.diagonal()) / (N - 1))
    weight = torch.linspace(-3, 2, N, dtype=torch.float64)
    torch.testing.assert_close(
        read.received(weight), (others(whole) + weight[:, None]).logsumexp(0)
    )


def test_transposed_shifted_and_clipped(made):
    read, whole = made
    torch.testing.assert_close(read.transposed().others, others(whole.T).logsumexp(1))
    torch.testing.assert_close(read.shifted(1.5).others, others(whole + 1.5).logsumexp(1))
    torch.testing.assert_close(read.shifted(1.5).mean(), read.mean() + 1.5)
    clipped = read.clipped(1.0)
    torch.testing.assert_close(clipped.others, others(whole.clamp(-1, 1)).logsumexp(1))
    torch.testing.assert_close(clipped.own, whole.diagonal())


def test_leaving_one_out_survives_a_negative_that_dominates():
    """By subtraction, log(e^800 + e^0 - e^800) would be -inf or nan."""
    whole = torch.zeros(3, 3, dtype=torch.float64)
    whole[0, 1] = 800.0  # what row 0 spares
    read = scores.of_matrix(whole)
    assert read.rest[0].item() == 0.0
    assert read.spare[0].item() == 800.0


def test_external_negatives_are_all_candidates_of_every_anchor():
    g = torch.Generator().manual_seed(0)
    q, k, bank = (torch.randn(n, 4, generator=g, dtype=torch.float64) for n in (6, 6, 101))
    read = scores.against(q, k, lambda: bank.split(30), 101, 3.0)
    torch.testing.assert_close(read.others, (3 * q @ bank.T).logsumexp(1))
    with pytest.raises(ValueError, match="got 101, but `count` is 102"):
        scores.against(q, k, lambda: bank.split(30), 102)
    with pytest.raises(ValueError, match="paired"):
        read.received(torch.zeros(6))
    with pytest.raises(ValueError, match="paired"):
        read.transposed()


def test_gaussian_scores_equal_torch_distributions():
    g = torch.Generator().manual_seed(0)
    mean, sigma, z = (torch.randn(20, 3, generator=g, dtype=torch.float64) for _ in range(3))
    sigma = sigma.abs() + 0.05
    log_q = torch.distributions.Normal(mean, sigma).log_prob(z[:, None]).sum(2)
    read = scores.gaussian(mean, sigma, z)
    torch.testing.assert_close(read.own, log_q.diagonal(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(read.others, others_of(log_q), rtol=1e-9, atol=1e-9)


def others_of(whole: torch.Tensor) -> torch.Tensor:
    return whole.masked_fill(torch.eye(len(whole), dtype=torch.bool), -math.inf).logsumexp(1)


TEN_MILLION = r"""
import core, re, torch
from core.information import bounds, scores
def blocks():
    g = torch.Generator().manual_seed(0)
    for _ in range(100):
        yield torch.randn(100_000, 8, generator=g)
x = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
read = scores.against(x, x, blocks, 10**7)
assert read.negatives == 10**7
# E exp<x, z> over z ~ N(0, 1) is exp(|x|^2 / 2)
error = (read.others - torch.log(torch.tensor(1e7)) - x.double().square().sum(1) / 2).abs()
assert error.max() < 0.1, error
assert bounds.infonce(read).terms.mean() < 16.2
# not ru_maxrss, which a process inherits from the one that starts it
print(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ten_million_candidates_stream_in_under_two_gibibytes():
    told = subprocess.run(
        [sys.executable, "-c", TEN_MILLION], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert int(told.stdout) < 2 * 2**20  # KiB, for the whole process
