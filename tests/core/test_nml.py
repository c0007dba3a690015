"""Description lengths against enumeration, numerical integrals and each other."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import xlogy

from core.information import nml


def enumerated(n: int, outcomes: int) -> float:
    """log sum over all sequences of n outcomes of the largest likelihood of each."""
    total = 0.0
    for sequence in itertools.product(range(outcomes), repeat=n):
        counts = np.bincount(sequence, minlength=outcomes)
        total += math.exp(xlogy(counts, counts / n).sum())
    return math.log(total)


@pytest.mark.parametrize(("n", "outcomes"), [(1, 2), (5, 2), (8, 3), (6, 4), (3, 7), (2, 12)])
def test_the_complexity_is_that_of_enumeration(n, outcomes):
    found = nml.multinomial_complexity(n, outcomes)
    assert found == pytest.approx(enumerated(n, outcomes), abs=1e-11)


@pytest.mark.parametrize("counts", [(3, 2), (0, 5), (2, 1, 1), (4, 0, 0)])
def test_code_lengths_of_all_sequences_are_those_of_one_distribution(counts):
    """sum exp(-length) = 1 over all sequences (Kraft), and the given one has its fitted part."""
    n, outcomes = sum(counts), len(counts)
    total = sum(
        math.exp(-nml.multinomial_length(np.bincount(sequence, minlength=outcomes)))
        for sequence in itertools.product(range(outcomes), repeat=n)
    )
    assert total == pytest.approx(1, abs=1e-11)
    fit = -sum(xlogy(c, c / n) for c in counts)
    complexity = nml.multinomial_complexity(n, outcomes)
    assert nml.multinomial_length(counts) == pytest.approx(fit + complexity, abs=1e-11)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=2, max_size=6).filter(any))
def test_nml_has_the_least_worst_regret(counts):
    """No sequence costs more than log C above its best fit; Laplace's code, another code for the
    same data, has a larger worst regret.
    """
    n, k = sum(counts), len(counts)
    regret = nml.multinomial_length(counts) + sum(xlogy(c, c / n) for c in counts)
    assert regret == pytest.approx(nml.multinomial_complexity(n, k), abs=1e-8)
    worst = math.lgamma(n + k) - math.lgamma(k) - math.lgamma(n + 1)  # one outcome only
    assert worst >= nml.multinomial_complexity(n, k) - 1e-9


@pytest.mark.parametrize("outcomes", [2, 3, 5, 10])
def test_bic_and_fishers_approximation_follow_nml(outcomes):
    k, volume, gaps = outcomes - 1, nml.multinomial_volume(outcomes), []
    for n in (100, 1000, 10_000, 100_000):
        exact = nml.multinomial_complexity(n, outcomes)
        gaps.append(exact - nml.bic(0.0, k, n))
        # the error of the approximation falls as 1 / sqrt(n) (Szpankowski 1998)
        error = exact - nml.fisher_length(0.0, k, n, volume)
        assert 0 <= error < 0.6 * outcomes**1.5 / math.sqrt(n)
    # BIC differs by a constant as n grows: (log volume) - k/2 log 2 pi
    limit = volume - 0.5 * k * math.log(2 * math.pi)
    assert gaps[-1] == pytest.approx(limit, abs=0.06)
    assert abs(gaps[-1] - limit) < abs(gaps[0] - limit)


def test_regression_is_normalised():
    """Its density integrates to log(t2/t1) log(r2/r1), the constant that is left out, over all y
    with t and r in these ranges.
    """
    rng = np.random.default_rng(0)
    for n, k in ((5, 1), (6, 2), (8, 3)):
        x = rng.normal(size=(n, k))
        y = rng.normal(size=n)
        found = nml.regression(x, y)
        fitted = x @ np.linalg.lstsq(x, y, rcond=None)[0]
        t, r = ((y - fitted) ** 2).mean(), (fitted**2).mean()
        assert found.variance == pytest.approx(t)

        # the area of the sphere |u| = rho in k dimensions
        def area(d, radius):
            return 2 * math.pi ** (d / 2) / math.gamma(d / 2) * radius ** (d - 1)

        def length(t, r, n=n, k=k):
            value = 0.5 * (n - k) * math.log(t) + 0.5 * k * math.log(r)
            value += 0.5 * n * math.log(n * math.pi)
            return value - math.lgamma((n - k) / 2) - math.lgamma(k / 2)

        assert found.nml == pytest.approx(length(t, r), abs=1e-9)

        def density(u, v, n=n, k=k, area=area, length=length):
            return area(k, u) * area(n - k, v) * math.exp(-length(v * v / n, u * u / n))

        # separable, so two integrals are enough: over |u| and |v| from 1 to e each
        one = quad(lambda u: density(u, 1.0), 1, math.e)[0]
        other = quad(lambda v: density(1.0, v), 1, math.e)[0]
        # log(t2/t1) = log(r2/r1) = 2, so the total is their product
        assert one * other / density(1.0, 1.0) == pytest.approx(4, rel=1e-6)


def test_regression_prefers_the_true_degree():
    rng = np.random.default_rng(1)
    x = np.linspace(-1, 1, 50)
    chosen = []
    for _ in range(40):
        y = 1 + 2 * x - 3 * x**2 + 0.3 * rng.normal(size=50)
        lengths = [nml.regression(np.vander(x, k, increasing=True), y).nml for k in range(1, 7)]
        chosen.append(int(np.argmin(lengths)) + 1)
    assert chosen.count(3) >= 30


def test_bic_of_regression_is_that_of_its_definition():
    x, y = np.vander(np.arange(6.0), 2), np.array([0.1, 1.0, 2.2, 2.9, 4.1, 4.8])
    found = nml.regression(x, y)
    residual = y - x @ np.linalg.solve(x.T @ x, x.T @ y)
    sigma2 = (residual**2).mean()
    fit = 0.5 * (residual**2 / sigma2 + math.log(2 * math.pi * sigma2)).sum()
    assert found.fit == pytest.approx(fit)
    assert found.bic == pytest.approx(fit + 1.5 * math.log(6))
    assert nml.two_part_length(1.0, 3, 0.25, 2.0) == pytest.approx(1 + 3 * math.log(8))


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: nml.multinomial_complexity(-1, 2), "0 samples or more"),
        (lambda: nml.multinomial_length([1.5, 2]), "counts: must be whole numbers"),
        (lambda: nml.multinomial_length([-1, 2]), "counts: must be a vector of numbers"),
        (lambda: nml.bic(1.0, 1, 0), "1 sample or more"),
        (lambda: nml.two_part_length(1.0, 1, 2.0, 1.0), "precision: must be above 0 and at most"),
        (lambda: nml.regression(np.ones((3, 3)), np.ones(3)), "1 <= k < n"),
        (lambda: nml.regression(np.ones((4, 2)), np.arange(4)), "linearly dependent"),
        (lambda: nml.regression(np.ones((4, 1)), np.ones(4)), "fitted perfectly"),
        (lambda: nml.regression(np.ones((2, 1)), [math.nan, 1]), "must be finite"),
    ],
)
def test_what_has_no_code_is_named(call, line):
    with pytest.raises(ValueError, match=line):
        call()


def test_nothing_costs_nothing():
    assert nml.multinomial_complexity(0, 5) == nml.multinomial_complexity(9, 1) == 0
    assert nml.multinomial_length([0, 0]) == 0


@pytest.mark.parametrize("units", [(1e9, 1.0, 1e-9), (1e-160, 1e160, 3.0)])
def test_code_lengths_of_regression_do_not_depend_on_the_units_of_columns(units):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = x @ [1.0, 2.0, 0.0] + rng.normal(size=200)
    expected = nml.regression(x, y)
    assert nml.regression(x * units, y) == pytest.approx(expected, rel=1e-9)
    for unit in (1e-200, 1e200):  # a density of other units: n log(unit) more, for every k
        more = nml.regression(x, y * unit).nml - nml.regression(x[:, :2], y * unit).nml
        assert more == pytest.approx(expected.nml - nml.regression(x[:, :2], y).nml, abs=1e-6)
    with pytest.raises(ValueError, match="linearly dependent"):
        nml.regression(np.column_stack([x, x[:, 0] * 1e-12]), y)


@pytest.mark.parametrize(("n", "outcomes"), [(2**62, 2), (10.5, 3), (math.nan, 2), (4, math.inf)])
def test_numbers_that_no_sample_has_give_no_length(n, outcomes):
    """2^62 gave -inf, and 10.5 gave NaN."""
    with pytest.raises(ValueError, match="^n, outcomes: must be"):
        nml.multinomial_complexity(n, outcomes)


def test_a_parameter_that_is_rounded_to_its_whole_range_costs_nothing():
    assert nml.two_part_length(1.5, 3, 2.0, 2.0) == 1.5
    for precision in (0.0, -1.0, 2.0001, math.nan):
        with pytest.raises(ValueError, match="precision: must be above 0 and at most 2"):
            nml.two_part_length(1.5, 3, precision, 2.0)
