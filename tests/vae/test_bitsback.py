"""Bits-back: images of every kind of model come back, and the bits are those of D + R."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from contrastive.simclr import SimCLR, SimCLRConfig
from core.errors import UserError
from tests.small_vaes import CASES, SMALL, model, some_images
from vae import lengths
from vae.ans import Broken
from vae.beta import BetaVAE, BetaVAEConfig
from vae.bitsback import BitsBack, compressor, schedule
from vae.vlae import VLAE


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_images_come_back_with_other_rows_and_the_bits_are_the_models(name):
    method = model(name)
    images = some_images(method, 12 if isinstance(method, VLAE) else 60)
    codec = compressor(method, batch=16)
    grid = codec.grid(images)
    stack, parts, cells = codec.encode(images, grid)
    spare = 60 + 3 * len(stack.heads)  # the first head, flags, and new lanes
    assert stack.bits == pytest.approx(parts.net + parts.start, abs=spare)
    at_codes = lengths.at_codes(codec, images, grid.codes(cells)).sum()
    assert parts.net == pytest.approx(at_codes, rel=4e-3)
    own = lengths.bound(codec, images, samples=20)
    assert own.floored <= own.d * (1 + 1e-5)
    assert abs(parts.net / len(images) - own.floored - own.r) < 4 * own.error
    other = BitsBack(method, rows=5, batch=16)
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if name == "beta" else threads)
    try:
        assert (other.decode(stack, grid, len(images)) == images).all()
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def test_the_length_at_the_codes_is_that_of_torchs_densities():
    """-log2 p(x|z) - log2 p(z) + log2 q(z|x) at the very z: no average, so no tolerance for one."""
    method = model("window")
    images = some_images(method, 40)
    codec = compressor(method, batch=40)
    grid = codec.grid(images, fineness=6)
    _, parts, cells = codec.encode(images, grid)
    z, x = torch.from_numpy(grid.codes(cells)), torch.from_numpy(images / 255.0)
    exact = codec.model.posterior(x).log_prob(z) - codec.model.prior().log_prob(z)
    exact = exact - codec.model.likelihood(z).log_prob(x).flatten(1).sum(1)
    exact /= math.log(2)
    np.testing.assert_allclose(lengths.at_codes(codec, images, z.numpy()), exact, rtol=1e-5)
    assert parts.net == pytest.approx(exact.sum().item(), rel=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name, samples", [("beta", 50), ("vamp", 2), ("vamp", 4)])
def test_the_error_of_a_bound_is_that_of_files_with_other_codes(name, samples):
    """Draws of the codes of 400 equal images are 400 files of one image. The bound is a mean of K
    lengths, each with the variance of a file's if the rate is not a closed form, as for VAMP.
    """
    method = model(name)
    codec = compressor(method)
    images = some_images(method, 1).repeat(400, 0)
    mean, log_sigma = codec.moments(images)
    z = mean + np.exp(log_sigma) * np.random.default_rng(0).normal(size=mean.shape)
    spread = lengths.at_codes(codec, images, z).std()
    error = lengths.bound(codec, images, samples=samples).error
    exact = spread * math.sqrt(1 + (1 / samples if name == "vamp" else 0))
    assert error * math.sqrt(400) == pytest.approx(exact, rel=0.1)


@torch.no_grad()
def test_a_chain_of_images_says_what_each_of_them_moved():
    method = model("window")
    codec, images = compressor(method), some_images(method, 10)
    links = list(lengths.moves(codec, images))
    assert [link.image for link in links] == list(range(9, -1, -1))
    assert links[0].parts.start > 0 and sum(link.parts.start for link in links) < 500
    content = 32.0  # the first head
    for link in links:
        content += link.parts.net + link.parts.start
        assert link.content == pytest.approx(content, abs=20)  # one flag an image
        assert min(link.parts.popped, link.parts.pixels, link.parts.prior) > 0


@torch.no_grad()
@pytest.mark.parametrize("name", ["beta", "categorical", "vamp"])
def test_the_bound_is_that_of_torchs_densities_at_the_same_codes(name):
    method = model(name)
    images, generator = some_images(method, 12), torch.Generator().manual_seed(3)
    codec = compressor(method)
    x, double = torch.from_numpy(images / 255.0), codec.model
    posterior = double.posterior(x)
    d = r = 0.0
    for _ in range(2):
        z = posterior.mean + posterior.stddev * torch.randn(
            posterior.mean.shape, generator=generator, dtype=torch.float64
        )
        d -= double.likelihood(z).log_prob(x).double().sum().item() / 2
        if name == "vamp":
            r += (posterior.log_prob(z) - double.prior().log_prob(z)).sum().item() / 2
        else:  # given the dimensions before it, the rate of a dimension is a closed form
            center = posterior.mean - (double.code_prior.means(z) if name == "categorical" else 0)
            r += kl_divergence(Normal(center, posterior.stddev), Normal(0.0, 1.0)).sum().item() / 2
    found = lengths.bound(codec, images, seed=3, samples=2)
    assert found.d * len(images) * math.log(2) == pytest.approx(d, rel=1e-9)
    assert found.r * len(images) * math.log(2) == pytest.approx(r, rel=1e-9)


@torch.no_grad()
def test_a_model_that_is_very_sure_and_wrong_pays_24_bits_a_value():
    method = model("beta")
    method.decoder[-2].bias.data.fill_(500.0)  # every pixel is 1
    images = np.zeros((6, 1, 8, 8), np.uint8)
    own = lengths.bound(compressor(method), images)
    assert own.d > 64 * 300 / math.log(2)
    assert own.floored == pytest.approx(64 * 24, rel=1e-3)
    _, parts, _ = (codec := compressor(method)).encode(images, codec.grid(images))
    assert parts.pixels / len(images) == pytest.approx(own.floored, rel=1e-3)


@torch.no_grad()
def test_another_models_stack_is_refused_or_does_not_give_images():
    method, images = model("beta"), some_images(model("beta"), 30)
    codec = compressor(method)
    stack = codec.encode(images, grid := codec.grid(images)).stack
    method.decoder[-2].bias.data += 0.5
    with pytest.raises(Broken):
        compressor(method).decode(stack, grid, 30)


@torch.no_grad()
def test_start_up_bits_are_those_of_about_one_image_and_vanish_in_a_long_chain():
    method = model("beta")
    codec = compressor(method)
    images = some_images(method, 800)
    parts = codec.encode(images, codec.grid(images)).parts
    assert parts.start <= 2 * parts.popped / len(images) + 64
    assert parts.start < 0.002 * parts.net


def test_batches_grow_with_the_images_before_them():
    sizes = list(schedule(5000, 512))
    assert sum(sizes) == 5000 and max(sizes) == 512
    done = np.cumsum(sizes) - sizes
    assert all(size <= max(1, before // 4) for size, before in zip(sizes, done, strict=True))


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda x: x[:, :, :4], "images are uint8 1x4x8"),
        (lambda x: x.astype(np.float32), "images are float32"),
        (lambda x: np.where(x > 0, 254, 0).astype(np.uint8), "value 254 has no probability"),
    ],
)
def test_images_without_probability_are_refused(change, said):
    method = model("beta")
    codec, images = compressor(method), some_images(method, 5)
    with pytest.raises(UserError, match=said):
        codec.encode(change(images), codec.grid(images))


def test_models_that_have_no_codec_say_why():
    dense = BetaVAE(BetaVAEConfig(**SMALL, likelihood="normal"), (1, 8, 8))
    with pytest.raises(UserError, match="normal is a density"):
        compressor(dense)
    with pytest.raises(UserError, match="SimCLR has no posterior"):
        compressor(SimCLR(SimCLRConfig(backbone="small"), (3, 32, 32)))


@torch.no_grad()
def test_images_that_are_left_on_the_stack_are_refused():
    method = model("beta")
    codec, images = compressor(method), some_images(method, 30)
    stack = codec.encode(images, grid := codec.grid(images)).stack
    with pytest.raises(Broken, match="start-up bits were not recovered"):
        codec.decode(stack, grid, 0)
