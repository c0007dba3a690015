"""What is printed beside a time: the machine's speed, and whether other work uses the machine."""

import time
from pathlib import Path

import pytest
import torch

from core import machine


@pytest.mark.parametrize(
    "after, share, word",
    [
        ("cpu 110 0 10 1080 0 0 0 0 0 0", 0.1, "NOT quiet: other work uses 10% of the processors"),
        ("cpu 100 0 10 1070 0 0 0 20 0 0", 0.2, "NOT quiet"),  # given to other guests of the host
        ("cpu 101 0 10 1050 39 0 0 0 5 0", 0.01, "quiet"),
        ("something else", None, "load"),
    ],
)
def test_the_other_work_on_a_machine_is_measured(after, share, word, monkeypatch):
    texts = iter(["cpu 100 0 10 990 0 0 0 0 0 0\ncpu0 1", f"{after}\ncpu0 1"] * 2)
    monkeypatch.setattr(Path, "read_text", lambda self: next(texts))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert machine.busy() == (share if share is None else pytest.approx(share))
    assert word in machine.in_words()


def test_the_speed_is_that_of_products_of_matrices():
    side = 256
    a, best = torch.randn(side, side), 0.0
    for _ in range(50):
        began = time.perf_counter()
        torch.mm(a, a)
        best = max(best, 2 * side**3 / (time.perf_counter() - began) / 1e9)
    assert machine.gigaflops(side, 0.2) > best / 10
