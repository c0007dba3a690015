"""The VAE: KL and likelihoods against torch.distributions and closed forms, the ELBO against an exact marginal likelihood."""

from core.batch import Batch
from core.errors import UserError
from core.levels import DiscretisedLogistic
from core.likelihoods import DequantisedGaussian, Likelihood, kl_from_standard_normal
from core.randomness import Draws

import math

import pytest
import torch
from scipy.stats import chisquare
from torch import nn
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence

from vae.beta import BetaVAE, BetaVAEConfig
from vae.pictures import reconstructions, traversals
from vae.rate import RateConfig


def test_the_rate_equals_torch_distributions(make_batch):
    method = BetaVAE(BetaVAEConfig(width=8, latent=5), (1, 28, 28))
    batch = make_batch(16, 1, (1, 28, 28))
    x = method.target(batch.views[0], batch.draws.uniform("dequantise", 16, 1, 28, 28))
    expected = kl_divergence(method.posterior(x), method.prior()).mean()
    torch.testing.assert_close(method(batch).metrics["rate"], expected.detach(), rtol=1e-5, atol=1e-6)


def test_the_closed_form_kl_is_exact_in_float64():
    mean, log_sigma = (torch.randn(200, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    theirs = kl_divergence(Independent(Normal(mean, log_sigma.exp()), 1), Independent(Normal(torch.zeros(7).double(), 1.0), 1))
    torch.testing.assert_close(kl_from_standard_normal(mean, log_sigma).sum(1), theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loc", [-1.2, -1.0, 0.0, 0.37, 1.0])
@pytest.mark.parametrize("log_scale", [-7.0, -4.0, -1.0, 1.0])
def test_the_discretised_logistic_sums_to_one_over_256_levels(loc, log_scale):
    levels = torch.arange(256, dtype=torch.float64) / 255
    law = DiscretisedLogistic(torch.tensor(loc, dtype=torch.float64), torch.tensor(log_scale, dtype=torch.float64))
    assert law.log_prob(levels).exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert law.log_prob(levels).isfinite().all()


def test_the_discretised_logistic_is_a_difference_of_sigmoids():
    levels = torch.arange(1, 255, dtype=torch.float64)
    law = DiscretisedLogistic(torch.tensor(0.1, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64))
    edges = [((2 * (levels + side) / 255 - 1 - 0.1) / math.exp(-2)).sigmoid() for side in (0.5, -0.5)]
    torch.testing.assert_close(law.log_prob(levels / 255), (edges[0] - edges[1]).log(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loc, log_scale", [(0.37, -4.0), (-0.99, -3.0), (0.9, -1.5), (0.0, 1.0)])
def test_samples_of_the_discretised_logistic_fall_on_the_levels_as_often_as_log_prob_says(loc, log_scale):
    n, levels = 200_000, torch.arange(256, dtype=torch.float64) / 255
    law = DiscretisedLogistic(torch.tensor(loc, dtype=torch.float64), torch.tensor(log_scale, dtype=torch.float64))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sample = law.sample(torch.Size([n]))
    torch.testing.assert_close(sample * 255, (sample * 255).round(), rtol=0, atol=1e-9)
    observed = torch.bincount((sample * 255).round().long(), minlength=256).double()
    expected = n * law.log_prob(levels).exp()
    common = expected >= 5  # the others are pooled into one cell
    cells = [torch.cat([counts[common], counts[~common].sum()[None]]) for counts in (observed, expected)]
    cells = [counts[cells[1] > 0] for counts in cells]
    assert chisquare(cells[0].numpy(), cells[1].numpy() * n / cells[1].sum().item()).pvalue > 1e-3
    assert law.mean.item() == pytest.approx((levels * law.log_prob(levels).exp()).sum().item(), abs=1e-9)
    assert sample.mean().item() == pytest.approx(law.mean.item(), abs=5 * sample.std().item() / math.sqrt(n))


def test_the_quantiles_of_the_discretised_logistic_invert_its_cumulative_probabilities():
    levels = torch.arange(256, dtype=torch.float64) / 255
    law = DiscretisedLogistic(torch.tensor(0.2, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64))
    cumulative = law.log_prob(levels).exp().cumsum(0)
    kept = slice(0, 255)  # the last is 1 but for rounding
    torch.testing.assert_close(law.from_uniform(cumulative[kept] * (1 - 1e-9)), levels[kept], rtol=0, atol=1e-12)
    torch.testing.assert_close(law.from_uniform(cumulative[kept] * (1 + 1e-9)), levels[1:], rtol=0, atol=1e-12)


def test_the_dequantised_gaussian_keeps_every_constant():
    value = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    law = DequantisedGaussian(torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64))
    expected = -0.5 * ((value - 0.4) / 0.2) ** 2 - 0.5 * math.log(2 * math.pi * 0.04) - math.log(256)
    torch.testing.assert_close(law.log_prob(value), expected, rtol=1e-12, atol=1e-12)


def test_targets_binarise_keep_or_dequantise():
    x = torch.tensor([0, 64, 255], dtype=torch.uint8).view(1, 1, 1, 3).expand(4000, 1, 1, 3)
    noise = Draws(0, 0).uniform("noise", 4000, 1, 1, 3)
    binary = Likelihood("bernoulli", 1).target(x, noise)
    assert set(binary.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(binary.mean((0, 1, 2)), torch.tensor([0, 64 / 255, 1]), atol=0.03, rtol=0)
    torch.testing.assert_close(Likelihood("logistic", 1).target(x, noise), x / 255)
    torch.testing.assert_close((Likelihood("gaussian", 1).target(x, noise) * 256).floor(), x.float())
    logits = torch.randn(3, 1, 2, 2)
    torch.testing.assert_close(
        Likelihood("bernoulli", 1)(logits).log_prob(torch.ones(3, 1, 2, 2)), Bernoulli(logits=logits).log_prob(torch.ones(3, 1, 2, 2))
    )


class UnitPixels(nn.Module):
    """p(x|z) = N(decoder(z), s^2) with the image scored as it is."""

    def __init__(self, s: float):
        super().__init__()
        self.s = s

    def forward(self, parameters: torch.Tensor) -> Normal:
        return Normal(parameters, self.s)

    def target(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize("shift, log_stretch", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (-0.3, -0.4)])
def test_the_elbo_falls_short_of_the_exact_likelihood_by_the_kl_to_the_true_posterior(shift, log_stretch):
    """z ~ N(0, I), x|z ~ N(W z, s^2) with orthogonal columns in W: log p(x) is Gaussian, the posterior Gaussian and diagonal."""
    n, s, draws = 20000, 0.5, Draws(0, 0)
    w = torch.linalg.qr(draws.normal("w", 6, 2))[0] * torch.tensor([1.5, 0.7])
    x = draws.normal("z", n, 2) @ w.T + s * draws.normal("x", n, 6)
    exact = MultivariateNormal(torch.zeros(6), w @ w.T + s**2 * torch.eye(6)).log_prob(x).mean()
    sigma = (1 + (w**2).sum(0) / s**2) ** -0.5

    method = BetaVAE(BetaVAEConfig(backbone="mlp", decoder="mlp", width=8, latent=2, rate=RateConfig(beta=3.0)), (1, 2, 3))
    method.encoder, method.to_posterior, method.pixels = nn.Flatten(), nn.Linear(6, 4), UnitPixels(s)
    method.decoder = nn.Sequential(nn.Linear(2, 6, bias=False), nn.Unflatten(1, (1, 2, 3)))
    with torch.no_grad():
        method.to_posterior.weight.copy_(torch.cat([w.T * (sigma / s)[:, None] ** 2, torch.zeros(2, 6)]))
        method.to_posterior.bias.copy_(torch.cat([torch.full((2,), shift), sigma.log() + log_stretch]))
        method.decoder[0].weight.copy_(w)
        metrics = method(Batch((x.view(n, 1, 2, 3),), torch.zeros(n, 1).long(), torch.arange(n), draws)).metrics
    gap = kl_divergence(Normal(shift * torch.ones(2), sigma * math.exp(log_stretch)), Normal(torch.zeros(2), sigma)).sum()
    assert metrics["elbo"].item() == pytest.approx((exact - gap).item(), abs=0.06)


@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic", "gaussian"])
@pytest.mark.parametrize("backbone, decoder", [("conv", "conv"), ("mlp", "mlp"), ("small", "conv")])
def test_loss_is_distortion_plus_the_price_of_the_rate(likelihood, backbone, decoder, make_batch):
    method = BetaVAE(
        BetaVAEConfig(backbone=backbone, decoder=decoder, width=8, latent=3, rate=RateConfig(beta=2.5), likelihood=likelihood), (3, 32, 32)
    )
    batch = make_batch(8, 1)
    loss, metrics = method(batch)
    torch.testing.assert_close(loss, metrics["distortion"] + 2.5 * metrics["rate"])
    torch.testing.assert_close(metrics["nelbo"], metrics["distortion"] + metrics["rate"])
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


@pytest.mark.parametrize("backbone, decoder, key", [("conv", "conv", "backbone"), ("conv", "mlp", "backbone"), ("mlp", "conv", "decoder")])
def test_sides_that_do_not_fit_a_convolution_name_the_key_that_asks_for_it(backbone, decoder, key):
    with pytest.raises(UserError, match=rf"^model\.{key}.*data\.size or model\.{key}=mlp"):
        BetaVAE(BetaVAEConfig(backbone=backbone, decoder=decoder, width=8), (3, 30, 30))


def test_pictures_are_written(tmp_path, make_batch):
    method = BetaVAE(BetaVAEConfig(width=8, latent=3), (1, 28, 28)).eval()
    x = make_batch(6, 1, (1, 28, 28)).views[0]
    assert reconstructions(method, x, tmp_path / "a.png").stat().st_size > 100
    assert traversals(method, x, tmp_path / "b.png").stat().st_size > 100
