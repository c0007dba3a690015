"""Rows that depend on their neighbours: a bound on such rows is too high, and a remark says so."""

from functools import partial

import numpy as np
import pytest

from probes.samples import panel
from probes.samples.estimate import estimate
from probes.samples.order import said_of_order

RNG = np.random.default_rng(0)


def walk(n: int, d: int, keep: float) -> np.ndarray:
    """A time series whose rows have correlation `keep` with the row before."""
    noise, made = RNG.normal(size=(n, d)), np.zeros((n, d))
    for row in range(1, n):
        made[row] = keep * made[row - 1] + (1 - keep**2) ** 0.5 * noise[row]
    return made


def test_two_independent_time_series_seem_to_share_information_and_a_remark_says_why(monkeypatch):
    monkeypatch.setattr(panel, "LEAST_STEPS", 50)
    monkeypatch.setattr(panel, "Plan", partial(panel.Plan, check_every=10, patience=1))
    x, y = walk(60, 1, 0.99), walk(60, 1, 0.99)
    found = estimate(x, y, ("infonce",))
    assert any("neighbouring rows are alike in x and in y" in said for said in found["remarks"])


@pytest.mark.parametrize("keep, said", [(0.0, False), (0.5, True), (0.95, True)])
def test_one_dependent_column_among_independent_ones_is_seen(keep, said):
    x, y = RNG.normal(size=(2, 1000, 20))
    x[:, 3], y[:, 7] = walk(1000, 1, keep)[:, 0] ** 3, walk(1000, 1, keep)[:, 0]
    assert bool(said_of_order(x, y)) == said
    assert not said_of_order(x, RNG.normal(size=(1000, 2)))  # y is independent: no harm


def test_sorted_pairs_and_films_are_told_and_shuffled_ones_are_not():
    x = RNG.normal(size=(500, 1))
    y, labels = x + 0.1 * RNG.normal(size=(500, 1)), np.sign(x)
    frames = RNG.integers(0, 9, (500, 1, 20, 20)) + np.arange(500)[:, None, None, None] // 10
    rows = np.argsort(x[:, 0])
    for side in (y, labels, frames.astype(np.float32)):
        held = side if side.ndim > 2 else side[rows]
        assert said_of_order(x[rows], held)
        mixed = RNG.permutation(500)
        assert not said_of_order(x[rows][mixed], held[mixed])
