"""The VLAE: its distortion comes from its decoder, its keys are checked, its pictures are
samples.
"""

import itertools
import math
from pathlib import Path

import pytest
import torch

from core.errors import UserError
from core.method import LatentModel
from core.randomness import KeyedRNG
from core.run import checkpoint, config
from vae.figures import decoded, reconstructions, samples, traversals
from vae.priors import PriorConfig
from vae.vlae import VLAE, VLAEConfig

CONFIG = Path(__file__).parents[2] / "configs" / "vlae_mnist.yaml"


def small(shape: tuple[int, int, int] = (1, 8, 8), **more) -> VLAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = {
            "backbone": "mlp",
            "decoder": "mlp",
            "width": 8,
            "latent": 3,
            "pixel_width": 6,
            "prior": PriorConfig("flow", width=8),
        }
        return VLAE(VLAEConfig(**{**settings, **more}), shape)


@pytest.mark.parametrize(
    "window, likelihood, shape",
    [
        ("6", "bernoulli", (1, 8, 8)),
        ("full", "bernoulli", (1, 8, 8)),
        ("4x2", "logistic_mixture", (3, 8, 8)),
        ("full", "categorical", (3, 8, 8)),
    ],
)
def test_the_objective_is_the_rate_and_the_cross_entropy_of_the_decoders_conditionals(
    window, likelihood, shape, make_batch
):
    method, batch = small(shape, window=window, likelihood=likelihood), make_batch(4, 1, shape)
    loss, metrics = method(batch)
    x = method.target(batch.views[0], batch.rng.uniform("dequantise", 4, *shape))
    mean, log_sigma = method.moments(x)
    z = mean + log_sigma.exp() * batch.rng.normal("posterior", 4, 3)
    law = method.pixels(method.pixelcnn(x, method.pixelcnn.condition(method.decoder(z))))
    torch.testing.assert_close(metrics["distortion"], -law.log_prob(x).sum() / 4)
    torch.testing.assert_close(loss, metrics["distortion"] + metrics["rate"])
    assert law.log_prob(x).shape == method.likelihood(z).log_prob(x).shape == x.shape
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    assert isinstance(method, LatentModel)


def test_the_nelbo_stays_above_the_exact_likelihood():
    """A one-dimensional code on 2x2 binary images: p(x) by quadrature over z, for every x."""
    method = small((1, 2, 2), latent=1, window="1", prior=PriorConfig("standard")).double()
    images = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64).view(
        16, 1, 2, 2
    )
    z = torch.linspace(-8, 8, 801, dtype=torch.float64)[:, None]
    prior = torch.exp(-0.5 * z[:, 0] ** 2) / math.sqrt(2 * math.pi) * 0.02
    with torch.no_grad():
        joint = torch.stack(
            [
                method.likelihood(z).log_prob(x.expand(801, 1, 2, 2)).flatten(1).sum(1).exp()
                for x in images
            ]
        )  # [16, 801]
        p = joint @ prior
        assert p.sum().item() == pytest.approx(1, abs=1e-5)
        mean, log_sigma = method.moments(images)
        q = torch.distributions.Normal(mean, log_sigma.exp())
        weight = q.log_prob(z.T).exp() * 0.02
        nelbo = (weight * -joint.log()).sum(1) + method.code_prior.rate(mean, log_sigma, mean).sum(
            1
        )
        posterior = joint * prior / p[:, None]  # and above it by exactly KL(q(z|x) || p(z|x))
        gap = (weight * (weight.log() - posterior.log())).sum(1)
    assert (nelbo + p.log() > 0).all()
    torch.testing.assert_close(nelbo + p.log(), gap, rtol=1e-4, atol=1e-5)


def test_the_code_reaches_every_pixel_and_the_window_limits_only_the_image():
    method = small((1, 8, 8), window="1")
    z = KeyedRNG(0, 0).normal("z", 1, 3).requires_grad_()
    x = torch.zeros(1, 1, 8, 8, requires_grad=True)
    logits = method.pixelcnn(x, method.pixelcnn.condition(method.decoder(z)))
    for i, j in ((0, 0), (7, 7)):
        by_z, by_x = torch.autograd.grad(logits[0, 0, i, j], (z, x), retain_graph=True)
        assert (by_z != 0).all()
        assert torch.equal(by_x[0] != 0, method.pixelcnn.window.matrix((1, 8, 8))[0, i, j])


@pytest.mark.parametrize(
    "change, key",
    [
        ({"window": "wide"}, "window"),
        ({"context": "coarse", "window": "4x2"}, "scale"),
        ({"features": 0}, "features"),
        ({"pixel_blocks": -1}, "pixel_blocks"),
        ({"likelihood": "gaussian"}, "likelihood"),
        ({"latent": 0}, "latent"),
    ],
)
def test_impossible_settings_name_their_key(change, key):
    with pytest.raises(ValueError, match=f"^{key}:"):
        VLAEConfig(**change)


@pytest.mark.parametrize(
    "shape, change, key",
    [
        ((1, 8, 8), {"window": "9x2"}, "window"),
        ((3, 8, 8), {"pixel_width": 8, "window": "2"}, "pixel_width"),
    ],
)
def test_a_mismatch_with_the_image_is_one_line(shape, change, key):
    with pytest.raises(UserError, match=rf"^model\.{key}: .*$") as error:
        small(shape, **change)
    assert "\n" not in str(error.value)


def test_a_window_from_a_config_may_be_a_number():
    run = config.read(CONFIG, ["model.window=3", "model.width=8"])
    assert checkpoint.build_method(run, (1, 28, 28)).pixelcnn.window.up == 3
    with pytest.raises(UserError, match=r"model\.window: '3by2'"):
        config.read(CONFIG, ["model.window=3by2"])


def test_the_advice_against_a_collapse_names_the_window():
    said = small().warning({"information_upper": 0.0, "active_units": 0.0})
    assert said.endswith("or a decoder that reads fewer pixels around each pixel (model.window)")


def test_pictures_are_samples_that_come_out_the_same_each_time(make_batch):
    method = small().eval()
    x = make_batch(5, 1, (1, 8, 8)).views[0]
    before = torch.get_rng_state()
    draws = (reconstructions, traversals, lambda method, x: samples(method, 2, 3))
    made = [[draw(method, x) for draw in draws] for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert len(made[0][2]) == 2 and len(made[0][2][0]) == 3
    assert not torch.equal(made[0][2][0], made[0][2][1])
    for first, second in zip(*made, strict=True):
        assert all(torch.equal(*rows) for rows in zip(first, second, strict=True))
    drawn = decoded(method, method.embed(x), "0")
    assert drawn.shape == (5, 1, 8, 8) and set(drawn.unique().tolist()) <= {0.0, 1.0}
    shared = decoded(method, method.embed(x[:1]).expand(4, -1), "t", shared=True)
    assert torch.equal(shared, shared[:1].expand(4, -1, -1, -1)), (
        "with the same noise, pictures differ only by their codes"
    )
