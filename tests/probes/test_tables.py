"""The table of two numbers, a critic that other critics start from, against known densities."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from probes.samples.tables import table


def value(made, u, v) -> float:
    """The mean of log c over pairs."""
    first, second = made.codes(u, v)
    return float((first * second).sum(1).mean())


def normal_ranks(rho: float, n: int, seed: int):
    pairs = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, rho], [rho, 1]], n)
    return norm.cdf(pairs).T


def test_the_width_of_the_kernel_is_chosen_on_pairs_that_did_not_make_the_table():
    """Few independent pairs: a narrow kernel would show their accidents as information."""
    rng = np.random.default_rng(0)
    made = table(*rng.random((2, 150)))
    fresh = rng.random((2, 20_000))
    assert -0.02 < value(made, *fresh) < 0.005


@pytest.mark.parametrize("rho", [0.5, -0.9])
def test_a_table_of_many_pairs_is_the_density_of_the_pair_over_that_of_independent_ones(rho):
    made, (u, v) = table(*normal_ranks(rho, 20_000, 0)), normal_ranks(rho, 5000, 1)
    x = np.stack([norm.ppf(u), norm.ppf(v)], 1)
    both = multivariate_normal([0, 0], [[1, rho], [rho, 1]]).logpdf(x)
    exact = (both - norm.logpdf(x).sum(1)).mean()
    assert -0.04 < value(made, u, v) - exact < 0.01  # a kernel blurs a density
    assert exact == pytest.approx(-0.5 * np.log(1 - rho**2), abs=0.03)
