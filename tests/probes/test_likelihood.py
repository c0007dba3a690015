"""Bounds on log p(x) against the closed form of a linear-Gaussian model: z ~ N(0, 1) [L], x ~ N(W
z, t^2) [d], with an almost exact q(z|x).
"""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal

from core.batch import Batch
from core.data.source import Source
from core.frozen import Frozen
from core.randomness import KeyedRNG
from core.run import config
from probes.latents import likelihood as probe
from probes.latents.annealing import anneal, schedule
from probes.latents.likelihood import ais, importance_weights, joint_of, likelihood

LATENT, VALUES, T, IMAGES = 3, 6, 0.5, 40
LOADINGS = KeyedRNG(0, 0).normal("loadings", VALUES, LATENT).double() / math.sqrt(LATENT)
MARGINAL = LowRankMultivariateNormal(
    torch.zeros(VALUES, dtype=torch.float64),
    LOADINGS,
    torch.full((VALUES,), T**2, dtype=torch.float64),
)
X = (
    KeyedRNG(0, 0).normal("z", IMAGES, LATENT).double() @ LOADINGS.T
    + T * KeyedRNG(0, 0).normal("noise", IMAGES, VALUES).double()
)[:, None, None]
TRUTH = MARGINAL.log_prob(X.flatten(1))


class FactorAnalysis:
    """Its diagonal posterior has the right mean and the right marginal variances; only the
    correlations are missing.
    """

    def __init__(self, widened: float = 1.0):
        precision = torch.eye(LATENT, dtype=torch.float64) + LOADINGS.T @ LOADINGS / T**2
        self.covariance, self.widened = torch.linalg.inv(precision), widened

    def posterior(self, x):
        mean = x.flatten(1) @ LOADINGS @ self.covariance / T**2
        return Independent(Normal(mean, self.widened * self.covariance.diagonal().sqrt()), 1)

    def prior(self):
        return Independent(Normal(torch.zeros(LATENT, dtype=torch.float64), 1.0), 1)

    def likelihood(self, z):
        return Normal((z @ LOADINGS.T)[:, None, None], T)

    def discrete(self):
        return False

    def target(self, x, noise):
        return x


class Images(Source):
    shape, factors = (1, 1, VALUES), {}

    def __len__(self):
        return IMAGES

    def batches(self, order, views):
        for index, rng in order:
            yield Batch((X[index],), torch.zeros(len(index), 1), index, rng)


def frozen(model: FactorAnalysis) -> Frozen:
    run = config.RunConfig(method="vae.beta.BetaVAE")
    return Frozen(model, run, sources=lambda split, augmented: Images())


def test_the_importance_weighted_bound_rises_with_k_up_to_the_truth():
    found = likelihood(frozen(FactorAnalysis()), k=5000, images=IMAGES)
    assert [point["k"] for point in found["sweep"]] == [1, 10, 100, 1000, 5000]
    bounds = [-point["value"] for point in found["sweep"]]
    truth = TRUTH.mean().item()
    print(bounds, truth, -found["nelbo"]["value"])
    assert bounds == sorted(bounds) and bounds[0] < truth - 0.3
    assert truth - 0.01 < bounds[-1] < truth + 1e-3
    assert bounds[-2] < truth
    assert found["nelbo"]["value"] > found["importance_weighted"]["value"]
    assert found["gain"]["value"] == pytest.approx(
        found["nelbo"]["value"] - found["importance_weighted"]["value"]
    )
    assert list(found).index("nelbo") < list(found).index("importance_weighted")
    assert 1 < found["effective_samples"] < 5000


def test_the_elbo_is_its_closed_form():
    """log p(x) - KL(q(z|x) || p(z|x)). The KL is the same for all x, because the posterior
    covariance does not depend on x.
    """
    model = FactorAnalysis()
    q, p = model.covariance.diagonal(), torch.linalg.inv(model.covariance)
    gap = 0.5 * ((p.diagonal() * q).sum() - LATENT + model.covariance.logdet() - q.log().sum())
    found = likelihood(frozen(model), k=5000, images=IMAGES)
    assert -found["nelbo"]["value"] == pytest.approx((TRUTH.mean() - gap).item(), abs=0.02)


def test_weights_are_summed_in_chunks_as_they_would_be_at_once(monkeypatch):
    model, x = FactorAnalysis(), X[:5]
    seen = []

    def counted(z):
        seen.append(joint_of(model, x)(z))
        log_q.append(model.posterior(x).log_prob(z))
        return seen[-1]

    log_q = []
    monkeypatch.setattr(probe, "ROWS", 5 * 7)
    found = importance_weights(counted, model.posterior(x), 25, KeyedRNG(0, 0))
    weights = torch.cat(seen) - torch.cat(log_q)
    assert weights.shape == (25, 5) and len(seen) == 4
    assert list(found.bounds) == [1, 10, 25]
    torch.testing.assert_close(found.bounds[1], weights.mean(0))
    torch.testing.assert_close(
        found.bounds[10], weights[:20].view(2, 10, 5).logsumexp(1).mean(0) - math.log(10)
    )
    torch.testing.assert_close(found.bounds[25], weights.logsumexp(0) - math.log(25))
    torch.testing.assert_close(
        found.effective, weights.exp().sum(0) ** 2 / (2 * weights).exp().sum(0)
    )


def test_annealing_from_the_prior_reaches_the_truth_and_importance_weights_do_not():
    model = FactorAnalysis()
    prior = Independent(Normal(torch.zeros(IMAGES, LATENT, dtype=torch.float64), 1.0), 1)
    weighted = importance_weights(joint_of(model, X), prior, 16, KeyedRNG(0, 0)).bounds[16]
    annealed = anneal(joint_of(model, X), prior, 60, 16, KeyedRNG(0, 0))
    print((weighted - TRUTH).mean(), (annealed.log_evidence - TRUTH).mean(), annealed.accepted)
    assert (weighted - TRUTH).mean() < -0.3
    assert -0.05 < (annealed.log_evidence - TRUTH).mean() < 0.02
    assert 0.5 < annealed.accepted < 0.9


def test_annealing_with_one_step_is_the_importance_weighted_bound():
    model = FactorAnalysis()
    found = anneal(joint_of(model, X), model.posterior(X), 1, 16, KeyedRNG(0, 0))
    expected = importance_weights(joint_of(model, X), model.posterior(X), 16, KeyedRNG(0, 1))
    assert found.log_evidence.mean().item() == pytest.approx(
        expected.bounds[16].mean().item(), abs=0.1
    )
    assert (found.log_evidence >= found.elbo).all()


def test_the_mean_weight_of_annealing_has_no_bias():
    """One image, many chains: E w / p(x) = 1, for step sizes that were tuned on other chains."""
    model, x = FactorAnalysis(widened=0.7), X[:1]
    runs = [
        anneal(joint_of(model, x), model.posterior(x), 8, 20_000, KeyedRNG(seed, 0))
        for seed in range(4)
    ]
    evidence = torch.stack([run.log_evidence for run in runs]).logsumexp(0) - math.log(4)
    assert evidence.item() == pytest.approx(TRUTH[0].item(), abs=0.02)
    assert all(run.elbo.item() < TRUTH[0].item() - 0.05 for run in runs)


def test_the_annealed_report():
    found = ais(frozen(FactorAnalysis(widened=0.8)), steps=20, chains=8, images=20)
    assert found["images"] == 20 and found["steps"] == 20 and found["chains"] == 8
    chosen = torch.arange(20) * IMAGES // 20
    assert -0.02 < found["annealed"]["value"] + TRUTH[chosen].mean().item() < 0.1
    assert found["nelbo"]["value"] > found["annealed"]["value"]
    assert "stochastic" in found["annealed"]["side"] and found["gain"]["low"] > 0


class Chain(FactorAnalysis):
    """Each value depends on the code and on the value before it: x_i ~ N(w_i z + r (x_{i-1} -
    w_{i-1} z), t^2).
    """

    def __init__(self):
        super().__init__()
        self.mixing = torch.eye(VALUES, dtype=torch.float64) - torch.diag(
            torch.full((VALUES - 1,), 0.7, dtype=torch.float64), -1
        )
        noise = torch.linalg.inv(self.mixing.T @ self.mixing) * T**2
        self.truth = MultivariateNormal(
            torch.zeros(VALUES, dtype=torch.float64), LOADINGS @ LOADINGS.T + noise
        ).log_prob(X.flatten(1))
        self.gain = torch.linalg.inv(noise) @ LOADINGS
        self.covariance = torch.linalg.inv(
            torch.eye(LATENT, dtype=torch.float64) + LOADINGS.T @ self.gain
        )

    def posterior(self, x):
        return Independent(
            Normal(x.flatten(1) @ self.gain @ self.covariance, self.covariance.diagonal().sqrt()), 1
        )

    def likelihood(self, z):
        def log_prob(x):
            residual = x - (z @ LOADINGS.T)[:, None, None]
            return Normal(0.0, T).log_prob(residual @ self.mixing.T)

        return SimpleNamespace(log_prob=log_prob)


def test_an_autoregressive_likelihood_is_read_the_same_way():
    model = Chain()
    weighted = likelihood(frozen(model), k=2000, images=IMAGES)["importance_weighted"]["value"]
    annealed = ais(frozen(model), steps=30, chains=8, images=IMAGES)["annealed"]["value"]
    assert -weighted == pytest.approx(model.truth.mean().item(), abs=0.02)
    assert -annealed == pytest.approx(model.truth.mean().item(), abs=0.1)


def test_the_schedule_is_the_sigmoid_of_wu_et_al():
    betas = schedule(4)
    raw = [1 / (1 + math.exp(-4 * x)) for x in (-1, -0.5, 0, 0.5, 1)]
    assert betas == pytest.approx([(value - raw[0]) / (raw[-1] - raw[0]) for value in raw])
    assert betas[0] == 0 and betas[-1] == 1
