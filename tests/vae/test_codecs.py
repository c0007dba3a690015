"""Codecs of pixels and latents: their counts are the likelihoods of torch, on integers."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.distributions import Normal

from core.errors import UserError
from core.networks.likelihoods import Likelihood
from vae.ans import Broken, Stack
from vae.codecs import KINDS, pixel_codec
from vae.grid import FINE, MOST_CELLS, SIGMAS, Grid
from vae.prior_codecs import prior_codec
from vae.priors import FlowPrior, StandardNormal, VampPrior


@pytest.mark.parametrize("name", KINDS)
def test_the_bits_of_a_level_are_the_likelihoods_and_levels_come_back(name):
    rng = np.random.default_rng(0)
    likelihood = Likelihood(name, channels=3, components=4).double().requires_grad_(False)
    codec, n = pixel_codec(likelihood), 3000
    parameters = rng.normal(size=(n, likelihood.channels)) * (3 if name == "bernoulli" else 1)
    channel, top = np.arange(n) % 3, codec.levels - 1
    rounded = codec.rounded(parameters, channel)
    image = torch.from_numpy(parameters).view(-1, 3 * likelihood.channels, 1, 1)
    law = likelihood(image)
    # levels that the likelihood itself draws, so that tails have their weight
    torch.manual_seed(0)
    levels = (law.sample() * top).round().long().flatten().numpy()
    exact = -law.log_prob(torch.from_numpy(levels / top).view(-1, 3, 1, 1)).flatten().numpy()
    bits = codec.cost(levels, rounded)
    assert abs(bits.mean() * math.log(2) / exact.mean() - 1) < 2e-3
    assert np.abs(bits * math.log(2) - exact).max() < 0.1
    stack = Stack()
    codec.push(stack, levels, rounded)
    assert (codec.pop(stack, rounded) == levels).all() and stack.is_start()


@pytest.mark.parametrize("name", [name for name in KINDS if name != "bernoulli"])
def test_every_level_has_a_count_and_all_counts_are_used(name):
    likelihood = Likelihood(name, channels=1, components=3)
    codec = pixel_codec(likelihood)
    far = np.full((4, likelihood.channels), 300.0) * np.array([[0], [1], [-1], [3]])
    table, rows = codec.cumulative(codec.rounded(far, 0))
    counts = np.diff(table[rows].astype(np.int64), axis=1)
    assert counts.min() >= 1 and (counts.sum(1) == 2**24).all() and counts.shape == (4, 256)


@pytest.mark.parametrize("name", ["normal", "gaussian"])
def test_a_density_has_no_codec(name):
    with pytest.raises(UserError, match=f"{name} is a density"):
        pixel_codec(Likelihood(name, 1))


def test_a_cells_counts_are_the_normals_mass_and_all_cells_are_found():
    grid, rng = Grid(5, 3), np.random.default_rng(0)
    posterior = grid.rounded(rng.normal(size=400) * 3, rng.uniform(-4, 1, 400))
    normals = posterior._replace(least=1)  # as under a prior, where each cell has a count
    cells = rng.integers(0, grid.cells, 400)
    sigma = np.exp(normals.sigma / SIGMAS)
    mean = normals.mean / FINE * 2.0**-5
    edge = grid.codes(cells) - 2.0**-6
    mass = norm.cdf(edge + 2.0**-5, mean, sigma) - norm.cdf(edge, mean, sigma)
    inner = (cells > 0) & (cells < grid.cells - 1)
    found = 2.0 ** -grid.cost(cells, normals)
    assert np.abs(found - mass)[inner].max() < 3e-6
    stack = Stack()
    grid.push(stack, cells, normals)  # most of these cells are far in the tails
    assert (grid.pop(stack, normals) == cells).all() and stack.is_start()
    drawn = grid.pop(stack, posterior)  # and cells that the normals choose
    assert (np.abs(grid.codes(drawn) - mean) < 6 * sigma + 2.0**-5).all()
    grid.push(stack, drawn, posterior)
    assert stack.is_start()
    with pytest.raises(Broken, match="no probability"):
        grid.push(stack, cells, posterior)


def test_a_posterior_never_draws_a_code_that_is_far_from_its_mean():
    """200,000 codes of one narrow normal on a wide grid."""
    grid, n = Grid(7, 6), 200_000
    normals = grid.rounded(np.full(n, 0.3), np.full(n, -2.0))
    heads = np.random.default_rng(0).integers(2**32, 2**63, 1024).astype(np.uint64)
    codes = grid.codes(grid.pop(Stack(heads=heads), normals))
    assert np.abs(codes - 0.3).max() < 6.5 * math.exp(-2)
    assert codes.std() == pytest.approx(math.exp(-2), rel=0.01)


def priors():
    torch.manual_seed(0)
    flow = FlowPrior(3, 2, 16).double()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    mean, log_sigma = torch.randn(7, 3).double() * 2, torch.randn(7, 3).double() * 0.5 - 1
    vamp = VampPrior(7, (1, 2, 2), lambda x: (mean, log_sigma), True).double()
    return {"standard": StandardNormal(3).double(), "flow": flow, "vamp": vamp}


@torch.no_grad()
@pytest.mark.parametrize("name", ["standard", "flow", "vamp"])
def test_latents_cost_what_the_prior_says_and_come_back(name):
    prior, grid = priors()[name], Grid(6, 3)
    codec = prior_codec(prior, 3)
    z = prior().sample((500,))
    cells = np.floor((z.numpy() + 8) * 64).astype(np.int64)
    stack = Stack()
    before = stack.bits
    codec.push(stack, grid, cells)
    middle = torch.from_numpy(grid.codes(cells))
    exact = (-prior().log_prob(middle).sum() / math.log(2)).item() + 500 * 3 * 6
    assert stack.bits - before == pytest.approx(exact, rel=1e-3)
    assert (codec.pop(stack, grid, 500) == cells).all() and stack.is_start()


def test_a_grid_suits_the_sharpest_posteriors_and_holds_all_means():
    grid = Grid.for_codes(np.array([[2.0, -7.0]]), np.array([[-3.0, -1.0]]))
    assert 2.0**-grid.spacing <= math.exp(-3) / 4 and 2**grid.reach >= 12 and grid.is_valid()
    codes = torch.from_numpy(grid.codes(grid.pop(Stack(), grid.standard(np.zeros(4000)))))
    z = Normal(0.0, 1.0).cdf(codes)
    assert abs(z.mean() - 0.5) < 0.03 and abs(z.var() - 1 / 12) < 0.01


def test_a_grid_for_far_and_narrow_codes_has_no_more_cells_than_allowed():
    far, narrow = np.array([[1e4]]), np.array([[-20.0]])
    for mean, log_sigma, known in (
        (far, narrow, (12, 7)), (far, 0 * narrow, (3, 8)), (0 * far, narrow, (12, 4)),
    ):  # fmt: skip
        grid = Grid.for_codes(mean, log_sigma)
        assert tuple(grid) == known and grid.spacing + grid.reach < MOST_CELLS
