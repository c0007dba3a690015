"""The rate probe on a VAE whose numbers have closed forms:

x ~ N(0, 1) in d dimensions,  z = a x + s e,  p(x|z) = N(b z, t^2),  p(z) = N(0, 1)
"""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Independent, Normal

from core.batch import Batch
from core.frozen import Frozen
from core.run import config
from probes.latents import rate as probe

A, S, B, T, DIMENSIONS, IMAGES = 0.8, 0.7, 0.9, 0.6, 2, 8192


class LinearGaussian:
    """A linear encoder and decoder with Gaussian distributions."""

    def posterior(self, x):
        return Independent(Normal(A * x.flatten(1), S), 1)

    def prior(self):
        return Independent(Normal(torch.zeros(DIMENSIONS, dtype=torch.float64), 1.0), 1)

    def likelihood(self, z):
        return Normal(B * z[:, None, None], T)

    def discrete(self):
        return False

    def target(self, x, noise):
        return x


class Moments:
    """Images and posterior noise whose joint first and second moments are exactly those of
    independent standard normals. So quadratic functions of them have no sampling error, and only
    the bias and the error of the bounds remain.
    """

    shape = (1, 1, DIMENSIONS)

    def __init__(self, n: int, seed: int):
        joint = torch.randn(
            n, 2 * DIMENSIONS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        joint -= joint.mean(0)
        joint = joint @ torch.linalg.inv(torch.linalg.cholesky(joint.T @ joint / n)).T
        self.x, self.noise = joint[:, :DIMENSIONS], joint[:, DIMENSIONS:]

    def __len__(self):
        return len(self.x)

    def batches(self, order, views):
        rng = SimpleNamespace(
            uniform=lambda purpose, *shape: torch.zeros(shape),
            normal=lambda purpose, *shape: self.noise,
        )
        yield Batch((self.x[:, None, None],), torch.zeros(len(self)), torch.arange(len(self)), rng)


@pytest.fixture(scope="module")
def found():
    run = config.RunConfig(method="vae.beta.BetaVAE")
    source = Moments(IMAGES, 0)
    frozen = Frozen(LinearGaussian(), run, sources=lambda split, augmented: source)
    return probe.RateProbe().measure(frozen).numbers


V, D = A**2 + S**2, DIMENSIONS
INFORMATION = D / 2 * math.log(V / S**2)
TRUTH = {
    "rate": D / 2 * (V - 1 - math.log(S**2)),
    "distortion": D / 2 * (math.log(2 * math.pi * T**2) + ((1 - A * B) ** 2 + B**2 * S**2) / T**2),
    "lower": INFORMATION,
    "upper": INFORMATION,
}
MARGINAL_KL = D / 2 * (V - 1 - math.log(V))


@pytest.mark.parametrize("name", TRUTH)
def test_each_number_is_its_closed_form(found, name):
    assert found[name]["value"] == pytest.approx(TRUTH[name], abs=1e-3)
    assert found[name]["low"] < TRUTH[name] < found[name]["high"]


def test_the_rate_is_the_sum_of_its_parts(found):
    assert found["nelbo"]["value"] == pytest.approx(TRUTH["rate"] + TRUTH["distortion"], abs=1e-3)
    assert found["marginal_kl"]["low"] == pytest.approx(MARGINAL_KL, abs=1e-3)
    assert found["marginal_kl"]["high"] == pytest.approx(MARGINAL_KL, abs=1e-3)
    assert (
        found["marginal_kl"]["low"] <= MARGINAL_KL + 1e-3
        and found["marginal_kl"]["high"] >= MARGINAL_KL - 1e-3
    )
    entropy = D / 2 * math.log(2 * math.pi * math.e)
    assert (
        entropy - found["distortion"]["value"] < INFORMATION < found["rate"]["value"]
    )  # Alemi et al. 2018
    assert found["nelbo"]["value"] > entropy
    assert found["lower"]["value"] < found["upper"]["value"] < found["rate"]["value"]
