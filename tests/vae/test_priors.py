"""Priors: densities against numerical integration and autograd, rates against torch's own
divergences, samples against their density.
"""

import math

import pytest
import torch
from scipy.stats import kstest
from torch.distributions import Independent, MixtureSameFamily, Normal, kl_divergence

from core.errors import UserError
from core.randomness import KeyedRNG
from vae.beta import BetaVAE, BetaVAEConfig
from vae.priors import FlowPrior, PriorConfig, StandardNormal, VampPrior


def flow(latent: int, steps: int = 4, width: int = 32) -> FlowPrior:
    """A flow that is not the standard normal any more."""
    prior = FlowPrior(latent, steps, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for step in prior.steps:
            torch.nn.init.normal_(step[-1].weight, std=0.5)
            torch.nn.init.normal_(step[-1].bias, std=0.5)
    return prior


def vamp(latent: int = 2) -> VampPrior:
    torch.manual_seed(0)
    return VampPrior(
        5,
        (1, 2, 2),
        lambda x: (x.flatten(1)[:, :latent] * 3 - 1, x.flatten(1)[:, -latent:] - 1),
        True,
    )


@pytest.mark.parametrize("make", [lambda: StandardNormal(2), vamp, lambda: flow(2)])
def test_a_prior_integrates_to_one(make):
    axis = torch.linspace(-12, 12, 481)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(-1, 2)
    with torch.no_grad():
        assert make()().log_prob(grid).double().exp().sum().item() * 0.05**2 == pytest.approx(
            1, abs=1e-3
        )


@pytest.mark.parametrize("latent", [2, 5])
def test_every_step_of_the_flow_keeps_one_order(latent):
    prior, z = flow(latent), KeyedRNG(0, 0).normal("z", latent)
    reach = torch.autograd.functional.jacobian(prior.means, z)
    assert (reach.triu() == 0).all()
    assert (reach.tril(-1)[torch.ones(latent, latent).tril(-1).bool()] != 0).all()


def test_the_flow_is_a_flow():
    """log p(z) = log N(e(z)) + log |det de/dz|, with the determinant from autograd."""
    prior, z = flow(4).double(), KeyedRNG(0, 0).normal("z", 6, 4).double()
    for row in z:
        jacobian = torch.autograd.functional.jacobian(lambda v: v - prior.means(v), row)
        expected = (
            Normal(0.0, 1.0).log_prob(row - prior.means(row)).sum()
            + torch.linalg.slogdet(jacobian)[1]
        )
        torch.testing.assert_close(prior().log_prob(row), expected, rtol=1e-12, atol=1e-12)


def test_the_flow_decodes_one_dimension_after_another():
    prior, noise = flow(6), KeyedRNG(0, 0).normal("noise", 10, 6)
    with torch.no_grad():
        z = prior().transform(noise)
        torch.testing.assert_close(z - prior.means(z), noise, rtol=1e-5, atol=1e-5)
        assert (z - noise).abs().max() > 0.1


def test_a_new_flow_is_the_standard_normal():
    z = KeyedRNG(0, 0).normal("z", 20, 3)
    torch.testing.assert_close(FlowPrior(3, 4, 16)().log_prob(z), StandardNormal(3)().log_prob(z))


@pytest.mark.parametrize("make", [lambda: StandardNormal(3), lambda: vamp(3), lambda: flow(3)])
def test_the_terms_of_a_rate_add_up_to_log_q_minus_log_p(make):
    prior, rng, n = make(), KeyedRNG(0, 0), 200_000
    mean, log_sigma = (
        torch.tensor([[0.5, -1.0, 2.0]]).expand(n, 3),
        torch.tensor([[-0.5, 0.0, -1.5]]).expand(n, 3),
    )
    z = mean + log_sigma.exp() * rng.normal("z", n, 3)
    q = Independent(Normal(mean, log_sigma.exp()), 1)
    with torch.no_grad():
        sampled, columns = q.log_prob(z) - prior().log_prob(z), prior.rate(mean, log_sigma, z)
    assert columns.shape == (n, prior.columns)
    error = (sampled - columns.sum(1)).std().item() / math.sqrt(n)
    assert columns.sum(1).mean().item() == pytest.approx(
        sampled.mean().item(), abs=4 * error + 1e-5
    )
    if prior.columns > 1:
        assert (columns >= 0).all() and columns.sum(1).var() < sampled.var()


def test_the_rate_of_the_standard_normal_is_torchs():
    rng = KeyedRNG(0, 0)
    mean, log_sigma = rng.normal("mean", 50, 4), rng.normal("log sigma", 50, 4)
    theirs = kl_divergence(Normal(mean, log_sigma.exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(StandardNormal(4).rate(mean, log_sigma, mean), theirs)


@pytest.mark.parametrize("make", [vamp, lambda: flow(2)])
def test_samples_follow_the_density(make):
    """The first coordinate's distribution, by integrating the density on a grid."""
    prior = make()()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        sample = prior.sample(torch.Size([4000]))
        axis = torch.linspace(-12, 12, 481)
        density = (
            prior.log_prob(torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(-1, 2))
            .exp()
            .view(481, 481)
        )
    cumulative = (density.sum(1).double().cumsum(0) * 0.05**2).numpy()
    assert (
        kstest(
            sample[:, 0].numpy(),
            lambda x: torch.from_numpy(cumulative).numpy()[((x + 12) / 0.05).round().astype(int)],
        ).pvalue
        > 1e-3
    )


def test_the_vamp_prior_is_the_mixture_of_the_posteriors_of_its_pseudo_inputs():
    method = BetaVAE(
        BetaVAEConfig(width=8, latent=3, prior=PriorConfig("vamp", pseudo_inputs=4)), (1, 8, 8)
    ).eval()
    z, posteriors = (
        KeyedRNG(0, 0).normal("z", 6, 3),
        method.posterior(method.code_prior.pseudo_inputs.sigmoid()),
    )
    expected = torch.stack(
        [posteriors.log_prob(row.expand(4, 3)).logsumexp(0) - math.log(4) for row in z]
    )
    torch.testing.assert_close(method.prior().log_prob(z), expected)
    assert isinstance(method.prior(), MixtureSameFamily)
    expected.sum().backward()
    assert method.code_prior.pseudo_inputs.grad.abs().sum() > 0
    assert sum("pseudo_inputs" in name for name in method.state_dict()) == 1
    assert not any("moments" in name for name in method.state_dict())


@pytest.mark.parametrize("kind", ["vamp", "flow"])
def test_a_vae_with_a_trained_prior_trains_it(kind, make_batch):
    method = BetaVAE(BetaVAEConfig(width=8, latent=4, prior=PriorConfig(kind)), (1, 28, 28))
    loss, metrics = method(make_batch(8, 1, (1, 28, 28)))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    assert ("informative_dimensions" in metrics) == (kind == "flow")


@pytest.mark.parametrize(
    "change, key",
    [
        ({"kind": "vampp"}, "kind"),
        ({"steps": 2}, "steps: standard does not use it"),
        ({"kind": "flow", "width": 0}, "width: must be 1 or more"),
    ],
)
def test_impossible_priors_name_their_key(change, key):
    with pytest.raises(ValueError, match=rf"^prior\.{key}"):
        PriorConfig(**change)


def test_a_flow_needs_two_dimensions():
    with pytest.raises(UserError, match=r"^model\.prior\.kind: flow needs"):
        BetaVAE(BetaVAEConfig(width=8, latent=1, prior=PriorConfig("flow")), (1, 28, 28))


def test_each_step_of_the_flow_reads_what_the_step_before_it_made():
    """e_1 = z - mu_1(z), e_2 = e_1 - mu_2(e_1), and so on; log p(z) = log N(e; 0, I)."""
    prior = flow(3, steps=3)
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    e = z
    for step in prior.steps:
        e = e - step(e)
    torch.testing.assert_close(prior.means(z), z - e)
    torch.testing.assert_close(prior().log_prob(z), Normal(0.0, 1.0).log_prob(e).sum(1))
    assert not torch.allclose(e, z - sum(step(z) for step in prior.steps), atol=1e-3)
