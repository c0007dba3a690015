"""Critics of samples with more dimensions than pairs: their cost, and progress."""

import numpy as np
import pytest

from core import console
from probes.samples import canonical as closed
from probes.samples import panel
from probes.samples.crossfit import cross_fit


def pairs(n, d, seed=0):
    """x [n, d], y [n, d + 7] in a space of twelve dimensions, and their coordinates in it."""
    random = np.random.default_rng(seed)
    a = random.normal(size=(n, 12))
    b = a * np.linspace(0.2, 0.98, 12) + 0.3 * random.normal(size=(n, 12))
    turn_a, turn_b = (np.linalg.qr(random.normal(size=(w, 12)))[0] for w in (d, d + 7))
    return a @ turn_a.T, b @ turn_b.T, a, b


def test_wide_samples_have_the_correlations_of_the_space_that_they_fill(monkeypatch):
    x, y, a, b = pairs(200, 500)
    few = closed.canonical(a[:100], b[:100], a[100:], b[100:])
    largest = []
    solve = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda m: largest.append(len(m)) or solve(m))
    wide = closed.canonical(x[:100], y[:100], x[100:], y[100:])
    assert max(largest, default=0) <= 100  # cubic in the pairs, not in the dimensions
    assert len(few.correlations) > 5
    np.testing.assert_allclose(wide.correlations, few.correlations, atol=1e-6)
    scores = [first @ second.T for first, second in (few.codes(a, b), wide.codes(x, y))]
    np.testing.assert_allclose(*scores, atol=1e-4)


@pytest.mark.parametrize("width", [99, 100, 101])
def test_both_ways_to_whiten_agree(width):
    x = np.random.default_rng(1).normal(size=(100, width))
    made = closed._whitening(x)
    assert made.shape[1] == min(width, 99)
    spread = np.linalg.svd((x - x.mean(0)) @ made, compute_uv=False) / np.sqrt(99)
    known = np.linalg.svd(x - x.mean(0), compute_uv=False)[: len(spread)]
    expected = np.minimum(1, known / known[0] * np.sqrt(1000))
    np.testing.assert_allclose(np.sort(spread), np.sort(expected), atol=1e-6)


def test_a_long_estimate_shows_its_progress(monkeypatch, capsys):
    monkeypatch.setattr(console, "PLAIN_EVERY", 0.01)
    *_, x, y = pairs(60, 12)
    monkeypatch.setattr(panel, "LEAST_STEPS", 20)
    monkeypatch.setattr(panel, "MOST_STEPS", 20)
    cross_fit(x, y)
    said = capsys.readouterr().err
    assert "first fit of critics" in said and "training 10 critics" in said
