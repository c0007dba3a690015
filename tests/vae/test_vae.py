"""The VAE: its rate against torch.distributions, its ELBO against an exact marginal likelihood, and
its parts.
"""

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from core.batch import Batch
from core.errors import UserError
from core.networks.likelihoods import Likelihood, kl_from_standard_normal
from core.randomness import KeyedRNG
from vae.beta import BetaVAE, BetaVAEConfig
from vae.rate import RateConfig


def test_the_rate_equals_torch_distributions(make_batch):
    method = BetaVAE(BetaVAEConfig(width=8, latent=5), (1, 28, 28))
    batch = make_batch(16, 1, (1, 28, 28))
    x = method.target(batch.views[0], batch.rng.uniform("dequantise", 16, 1, 28, 28))
    expected = kl_divergence(method.posterior(x), method.prior()).mean()
    torch.testing.assert_close(
        method(batch).metrics["rate"], expected.detach(), rtol=1e-5, atol=1e-6
    )


def test_the_closed_form_kl_is_exact_in_float64():
    mean, log_sigma = (
        torch.randn(200, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(s))
        for s in (0, 1)
    )
    theirs = kl_divergence(
        Independent(Normal(mean, log_sigma.exp()), 1),
        Independent(Normal(torch.zeros(7).double(), 1.0), 1),
    )
    torch.testing.assert_close(
        kl_from_standard_normal(mean, log_sigma).sum(1), theirs, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("shift, log_stretch", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (-0.3, -0.4)])
def test_the_elbo_falls_short_of_the_exact_likelihood_by_the_kl_to_the_true_posterior(
    shift, log_stretch
):
    """z ~ N(0, I), x|z ~ N(W z, s^2) with orthogonal columns in W: log p(x) is Gaussian, the
    posterior Gaussian and diagonal.
    """
    n, s, rng = 20000, 0.5, KeyedRNG(0, 0)
    w = torch.linalg.qr(rng.normal("w", 6, 2))[0] * torch.tensor([1.5, 0.7])
    x = rng.normal("z", n, 2) @ w.T + s * rng.normal("x", n, 6)
    exact = MultivariateNormal(torch.zeros(6), w @ w.T + s**2 * torch.eye(6)).log_prob(x).mean()
    sigma = (1 + (w**2).sum(0) / s**2) ** -0.5

    method = BetaVAE(
        BetaVAEConfig(
            "linear", "linear", latent=2, rate=RateConfig(beta=3.0), likelihood="normal", sigma=s
        ),
        (1, 2, 3),
    )
    with torch.no_grad():
        method.to_posterior.weight.copy_(
            torch.cat([w.T * (sigma / s)[:, None] ** 2, torch.zeros(2, 6)])
        )
        method.to_posterior.bias.copy_(
            torch.cat([torch.full((2,), shift), sigma.log() + log_stretch])
        )
        method.decoder[0].weight.copy_(w)
        method.decoder[0].bias.zero_()
        metrics = method(
            Batch((x.view(n, 1, 2, 3),), torch.zeros(n, 1).long(), torch.arange(n), rng)
        ).metrics
    gap = kl_divergence(
        Normal(shift * torch.ones(2), sigma * math.exp(log_stretch)), Normal(torch.zeros(2), sigma)
    ).sum()
    assert metrics["elbo"].item() == pytest.approx((exact - gap).item(), abs=0.06)


@pytest.mark.parametrize("likelihood", Likelihood.NAMES)
@pytest.mark.parametrize(
    "backbone, decoder",
    [("conv", "mlp"), ("residual", "residual"), ("linear", "linear"), ("small", "conv")],
)
def test_loss_is_distortion_plus_the_price_of_the_rate(likelihood, backbone, decoder, make_batch):
    method = BetaVAE(
        BetaVAEConfig(
            backbone=backbone,
            decoder=decoder,
            width=8,
            latent=3,
            rate=RateConfig(beta=2.5),
            likelihood=likelihood,
        ),
        (3, 32, 32),
    )
    batch = make_batch(8, 1)
    loss, metrics = method(batch)
    torch.testing.assert_close(loss, metrics["distortion"] + 2.5 * metrics["rate"])
    torch.testing.assert_close(metrics["nelbo"], metrics["distortion"] + metrics["rate"])
    if likelihood != "normal":
        torch.testing.assert_close(metrics["bits_per_dim"], metrics["nelbo"] / (3072 * math.log(2)))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    method.eval()
    assert method.embed(batch.views[0]).shape == (8, 3)
    torch.testing.assert_close(method(batch).loss, method(batch).loss, rtol=0, atol=0)


@pytest.mark.parametrize(
    "change, key",
    [
        ({"latent": 0}, "latent"),
        ({"likelihood": "bce"}, "likelihood"),
        ({"sigma": 1.0}, "sigma"),
        ({"components": 3}, "components"),
        ({"decoder": "x"}, "decoder"),
    ],
)
def test_impossible_settings_name_their_key(change, key):
    with pytest.raises(ValueError, match=f"^{key}:"):
        BetaVAEConfig(**change)


@pytest.mark.parametrize(
    "backbone, decoder, key",
    [
        ("conv", "conv", "backbone"),
        ("conv", "mlp", "backbone"),
        ("mlp", "conv", "decoder"),
        ("residual", "mlp", "backbone"),
        ("mlp", "residual", "decoder"),
    ],
)
def test_sides_that_do_not_fit_a_convolution_name_the_key_that_asks_for_it(backbone, decoder, key):
    with pytest.raises(UserError, match=rf"^model\.{key}.*data\.size or model\.{key}=mlp"):
        BetaVAE(BetaVAEConfig(backbone=backbone, decoder=decoder, width=8), (3, 30, 30))


@pytest.mark.parametrize("images", [1, 6])
def test_figures_are_rows_of_images(make_batch, images):
    method = BetaVAE(BetaVAEConfig(width=8, latent=3), (1, 28, 28)).eval()
    with torch.no_grad():
        made = method.figures(make_batch(images, 1, (1, 28, 28)))
    assert {name: [len(row) for row in rows] for name, rows in made.items()} == {
        "reconstructions": [images, images],
        "traversals": [9, 9, 9],
        "samples": [10, 10, 10, 10],
    }
    for row in (row for rows in made.values() for row in rows):
        assert row.shape[1:] == (1, 28, 28) and row.min() >= 0 and row.max() <= 1


def test_a_collapsed_code_gives_a_warning_with_advice():
    method = BetaVAE(BetaVAEConfig(width=8, latent=64), (1, 28, 28))
    warning = method.warning({"information_upper": 0.02, "active_units": 0.0})
    assert warning.startswith("collapsed: 0 of 64 units active, z carries at most 0.02 nats; ")
    assert all(word in warning for word in ("free_bits", "annealing"))
    assert "model.window" not in warning, "this method has no such key"
    assert method.warning({"information_upper": 3.0, "active_units": 9.0}) == ""
    assert method.warning({"knn": 0.5}) == ""


def test_the_log_sigma_of_a_posterior_is_limited_on_both_sides():
    """A deviation of e^20 would give a code of only noise, and its square is infinite in
    float16.
    """
    method = BetaVAE(BetaVAEConfig(width=8, latent=3), (1, 28, 28))
    x = torch.rand(4, 1, 28, 28)
    for far, end in ((50.0, 3.0), (-50.0, -7.0)):
        with torch.no_grad():
            method.to_posterior.bias[3:] = far
        assert (method.moments(x)[1] == end).all()
        assert method.posterior(x).stddev.log().flatten().tolist() == pytest.approx([end] * 12)
