"""Critics of two numbers from which other critics start, against known densities: a table, and a
line with noise.
"""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from probes.samples import tables
from probes.samples.benchmark_sources import additive_uniform
from probes.samples.noise import CELLS, additive
from probes.samples.normal_scores import ranks
from probes.samples.start import start
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


def test_the_kernel_is_stretched_along_the_diagonal_of_the_pairs():
    """One pair after a Gaussian kernel of covariance a [[1, s], [s, 1]]: for cells d from it in
    both directions, the log odds of the diagonals are 4 s d^2 / (a (1 - s^2)). Marginals do not
    change them.
    """
    s, d, own = 0.6, 3, (tables.CELLS // 2 + 0.5) / tables.CELLS
    logs = tables._smoothed(np.array([own]), np.array([own]), 0.05, s)
    low, high = tables.CELLS // 2 - d, tables.CELLS // 2 + d
    odds = logs[low, low] + logs[high, high] - logs[low, high] - logs[high, low]
    a = (0.05 * tables.CELLS) ** 2 / np.sqrt(1 - s**2)
    assert odds == pytest.approx(4 * s * d**2 / (a * (1 - s**2)), rel=1e-2)


def line_of(x, y, used):
    """The critic of a line with noise, which is fitted on the rows `used` of x, y [n, 1]."""
    u, v = (ranks(side[used], side)[:, 0] for side in (x, y))
    return additive(x[:, 0], y[:, 0], u, v, used)


@pytest.mark.parametrize("width", [0.1, 0.75])
@pytest.mark.parametrize("turned", [False, True])
def test_a_line_with_uniform_noise_has_its_edges(width, turned):
    """I = width - log(2 width) or 1 / (4 width). A table is 0.05 nats short with as many pairs."""
    made, used, fresh = additive_uniform(width)(4000, 3), np.arange(2500), np.arange(2500, 4000)
    x, y = (made.x, 7 - 3e5 * made.y)  # any line
    found = line_of(x, y, used)
    if turned:
        found = found.turned().turned()
    own = made.pointwise[fresh].mean()
    exact = found.logs[found.of_x[fresh], found.of_y[fresh]].mean()
    assert own - 0.025 < exact < own + 0.005
    shares = (ranks(side[used], side)[:, 0] for side in (x, y))
    first, second = table(*(share[used] for share in shares)).codes(
        *(ranks(side[used], side)[fresh, 0] for side in (x, y))
    )
    assert (first * second).sum(1).mean() < exact - 0.01


def test_the_critic_of_a_line_is_normalised_and_knows_gaussian_noise():
    random = np.random.default_rng(0)
    x = random.normal(size=(6000, 1))
    y = 0.8 * x + 0.6 * random.normal(size=(6000, 1))
    found = line_of(x, y, np.arange(5000))
    density = np.exp(found.logs)
    np.testing.assert_allclose(density.mean(0), 1, rtol=1e-6)
    np.testing.assert_allclose(density.mean(1), 1, rtol=1e-2)
    value = found.logs[found.of_x, found.of_y][5000:].mean()
    assert value == pytest.approx(-0.5 * np.log(1 - 0.64), abs=0.05)
    back = found.turned()
    assert back.scores(np.arange(9)).tolist() == found.scores(np.arange(9)).T.tolist()


@pytest.mark.parametrize(
    "x, y",
    [
        (np.arange(400.0), np.repeat([1.0, 2.0], 200)),
        (np.r_[np.zeros(300), np.arange(100.0)], np.arange(400.0)),
        (np.geomspace(1e-300, 1e300, 400), np.geomspace(1e300, 1e-300, 400)),
        (np.arange(400.0), np.arange(400.0)),
    ],
)
def test_odd_numbers_give_finite_scores(x, y):
    found = line_of(x[:, None], y[:, None], np.arange(0, 400, 2))
    assert np.isfinite(found.logs).all() and found.logs.shape == (CELLS, CELLS)
    assert max(found.of_x.max(), found.of_y.max()) < CELLS


def test_a_line_is_chosen_for_edges_and_not_for_gaussians():
    random, used = np.random.default_rng(0), np.arange(3000)
    made = additive_uniform(0.1)(3000, 0)
    assert start(made.x, made.y, used, random).cells
    assert start(made.y, made.x, used, random).cells
    y = made.x[:, :1] + random.normal(size=(3000, 1))
    assert not start(
        norm.ppf(made.x), norm.ppf(made.x) + random.normal(size=y.shape), used, random
    ).cells
    wide = np.concatenate([made.x, y], 1)
    assert not start(wide, made.y, used, random).cells
