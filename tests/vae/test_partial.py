"""Coding only the first dimensions of a code: their bits, and the means of the others."""

import numpy as np
import pytest
import torch

from tests.small_vaes import model, some_images
from vae import lengths
from vae.ans import Stack
from vae.bitsback import compressor
from vae.partial import doubled, partial

PRIORS = {"standard": "beta", "flow": "categorical", "vamp": "vamp"}


def some_codes(codec, images):
    """A grid, cells and codes of images, drawn from the posterior."""
    grid = codec.grid(images)
    posterior = grid.rounded(*codec.moments(images))
    cells = grid.pop(Stack(), posterior).reshape(len(images), -1)
    return grid, cells, grid.codes(cells)


@torch.no_grad()
@pytest.mark.parametrize("name", PRIORS.values(), ids=PRIORS)
def test_the_cost_of_dimensions_is_what_a_push_adds(name):
    codec = compressor(model(name))
    grid, cells, z = some_codes(codec, some_images(codec.method, 200))
    stack = Stack()
    codec.prior.push(stack, grid, cells)
    cost = codec.prior.cost(grid, cells)
    assert cost.shape == cells.shape
    assert cost.sum() == pytest.approx(stack.bits - Stack().bits, rel=1e-3)
    # a cell of side 2^-spacing has about its density times its side
    density = -codec.model.prior().log_prob(torch.from_numpy(z)).numpy() / np.log(2)
    np.testing.assert_allclose(cost.sum(1), density + grid.spacing * cells.shape[1], atol=0.05)


@torch.no_grad()
@pytest.mark.parametrize("name", PRIORS.values(), ids=PRIORS)
def test_an_unknown_dimension_has_its_mean_given_the_others(name):
    """E[z_L | z_<L] by numerical integration of the prior's density."""
    codec = compressor(model(name))
    _, _, z = some_codes(codec, some_images(codec.method, 6))
    known = np.arange(z.shape[1]) < z.shape[1] - 1
    found = codec.prior.expected(z, known)
    assert (found[:, known] == z[:, known]).all()
    places = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    for row, mean in zip(torch.from_numpy(z), found[:, -1], strict=True):
        many = row.repeat(len(places), 1)
        many[:, -1] = places
        weights = codec.model.prior().log_prob(many).softmax(0)
        assert mean == pytest.approx(float(weights @ places), abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", ["beta", "categorical", "vamp", "window"])
def test_all_dimensions_are_the_whole_code_and_none_is_the_prior(name):
    codec = compressor(model(name))
    images = some_images(codec.method, 30)
    parts = list(partial(codec, images))
    assert [part.dimensions for part in parts] == [0, 1, 2, 4]
    grid, cells, z = some_codes(codec, images)
    x = torch.from_numpy(images / 255.0)
    least = lengths.distortions(codec, x, torch.from_numpy(z))[1].mean() / np.log(2)
    none, *_, whole = parts
    assert whole.distortion == pytest.approx(float(least))
    assert whole.rate == pytest.approx(whole.written - popped(codec, images, grid, cells))
    assert none.rate == none.written == 0
    assert all(part.pictures.shape == images.shape for part in parts)
    if name != "window":  # whose pictures are samples
        assert np.ptp(none.pictures, 0).max() < 1e-6  # all images look the same
    if name == "beta":
        rates = [part.rate for part in parts]
        assert rates[1] >= rates[2] - rates[1] >= (rates[3] - rates[2]) / 2  # the largest first


def popped(codec, images, grid, cells):
    """-log2 q(z|x), the mean of the images."""
    normals = grid.rounded(*codec.moments(images))
    return grid.cost(cells.ravel(), normals).sum() / len(images)


def test_stops():
    assert doubled(1) == [0, 1] and doubled(40) == [0, 1, 2, 4, 8, 16, 32, 40]
