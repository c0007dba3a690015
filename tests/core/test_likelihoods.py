"""Likelihoods: probabilities sum to one, samples follow them, constants are kept, and wrong values
are refused.
"""

import math

import pytest
import torch
from scipy.stats import chisquare
from torch.distributions import Bernoulli, Normal

from core.errors import UserError
from core.networks.discretized import (
    Categorical256,
    DiscreteDistribution,
    DiscretizedLogistic,
    LogisticMixture,
)
from core.networks.likelihoods import DequantisedGaussian, Likelihood
from core.randomness import KeyedRNG

LEVELS = torch.arange(256, dtype=torch.float64) / 255


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def logistic(loc: float, log_scale: float) -> DiscretizedLogistic:
    return DiscretizedLogistic(number(loc), number(log_scale))


def mixture(*parts: tuple[float, float, float]) -> LogisticMixture:
    """Parts (logit, loc, log scale)."""
    return LogisticMixture(*torch.tensor(parts, dtype=torch.float64).T)


def categorical(spread: float) -> Categorical256:
    return Categorical256(spread * KeyedRNG(0, 0).normal("logits", 256).double())


LAWS = {
    "logistic": logistic(0.37, -4.0),
    "logistic, low": logistic(-0.99, -3.0),
    "logistic, high": logistic(0.9, -1.5),
    "logistic, wide": logistic(0.0, 1.0),
    "mixture": mixture((0.0, -0.7, -3.0), (1.0, 0.2, -2.0), (-1.0, 1.1, -4.0)),
    "mixture, one tiny part": mixture((0.0, 0.4, -5.0), (-9.0, -0.5, 0.0)),
    "categorical": categorical(1.0),
    "categorical, peaked": categorical(4.0),
}
each_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())


@each_law
def test_256_probabilities_sum_to_one(law: DiscreteDistribution):
    assert law.log_prob(LEVELS).exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert law.log_prob(LEVELS).isfinite().all()
    assert law.mean.item() == pytest.approx(
        (LEVELS * law.log_prob(LEVELS).exp()).sum().item(), abs=1e-9
    )


@pytest.mark.parametrize("loc", [-1.2, -1.0, 0.0, 0.37, 1.0])
@pytest.mark.parametrize("log_scale", [-7.0, -4.6, -4.5, -4.0, -1.0, 1.0])
def test_the_discretised_logistic_sums_to_one_at_every_scale(loc, log_scale):
    """Its mean is right, too, on both sides of `SMOOTH`, a log scale of -4.56."""
    law = logistic(loc, log_scale)
    assert law.log_prob(LEVELS).exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert law.log_prob(LEVELS).isfinite().all()
    expected = (LEVELS * law.log_prob(LEVELS).exp()).sum().item()
    assert law.mean.item() == pytest.approx(expected, abs=1e-9)


def test_the_discretised_logistic_is_a_difference_of_sigmoids():
    levels = torch.arange(1, 255, dtype=torch.float64)
    edges = [
        ((2 * (levels + side) / 255 - 1 - 0.1) / math.exp(-2)).sigmoid() for side in (0.5, -0.5)
    ]
    torch.testing.assert_close(
        logistic(0.1, -2.0).log_prob(levels / 255),
        (edges[0] - edges[1]).log(),
        rtol=1e-9,
        atol=1e-9,
    )


def test_a_mixture_is_the_weighted_sum_of_its_parts():
    weights, parts = torch.tensor([0.2, 0.8], dtype=torch.float64), [(-0.3, -3.0), (0.5, -1.0)]
    expected = sum(
        w * logistic(*part).log_prob(LEVELS).exp() for w, part in zip(weights, parts, strict=True)
    )
    mixed = mixture(*((w.log().item(), *part) for w, part in zip(weights, parts, strict=True)))
    torch.testing.assert_close(mixed.log_prob(LEVELS).exp(), expected, rtol=1e-12, atol=1e-15)


@each_law
def test_samples_fall_on_the_levels_as_often_as_log_prob_says(law: DiscreteDistribution):
    n = 200_000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sample = law.sample(torch.Size([n]))
    torch.testing.assert_close(sample * 255, (sample * 255).round(), rtol=0, atol=1e-9)
    observed = torch.bincount((sample * 255).round().long(), minlength=256).double()
    expected = n * law.log_prob(LEVELS).exp()
    common = expected >= 5  # the others are pooled into one cell
    cells = [
        torch.cat([counts[common], counts[~common].sum()[None]]) for counts in (observed, expected)
    ]
    cells = [counts[cells[1] > 0] for counts in cells]
    assert chisquare(cells[0].numpy(), cells[1].numpy() * n / cells[1].sum().item()).pvalue > 1e-3


@pytest.mark.parametrize(
    "law", [logistic(0.2, -2.0), categorical(1.0)], ids=["logistic", "categorical"]
)
def test_quantiles_invert_the_cumulative_probabilities(law: DiscreteDistribution):
    cumulative = law.log_prob(LEVELS).exp().cumsum(0)
    kept = slice(0, 255)  # the last is 1 up to rounding
    torch.testing.assert_close(
        law.from_uniform(cumulative[kept] * (1 - 1e-9)), LEVELS[kept], rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        law.from_uniform(cumulative[kept] * (1 + 1e-9)), LEVELS[1:], rtol=0, atol=1e-12
    )


def test_the_dequantised_gaussian_keeps_every_constant():
    value = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    law = DequantisedGaussian(
        torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)
    )
    expected = (
        -0.5 * ((value - 0.4) / 0.2) ** 2 - 0.5 * math.log(2 * math.pi * 0.04) - math.log(256)
    )
    torch.testing.assert_close(law.log_prob(value), expected, rtol=1e-12, atol=1e-12)


def test_targets_binarise_keep_or_dequantise():
    x = torch.tensor([0, 64, 255], dtype=torch.uint8).view(1, 1, 1, 3).expand(4000, 1, 1, 3)
    noise = KeyedRNG(0, 0).uniform("noise", 4000, 1, 1, 3)
    binary = Likelihood("bernoulli", 1).target(x, noise)
    assert set(binary.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(
        binary.mean((0, 1, 2)), torch.tensor([0, 64 / 255, 1]), atol=0.03, rtol=0
    )
    torch.testing.assert_close(Likelihood("logistic", 1).target(x, noise), x / 255)
    torch.testing.assert_close(
        (Likelihood("gaussian", 1).target(x, noise) * 256).floor(), x.float()
    )
    logits = torch.randn(3, 1, 2, 2)
    torch.testing.assert_close(
        Likelihood("bernoulli", 1)(logits).log_prob(torch.ones(3, 1, 2, 2)),
        Bernoulli(logits=logits).log_prob(torch.ones(3, 1, 2, 2)),
    )


@pytest.mark.parametrize("name", ["categorical", "logistic_mixture"])
def test_each_value_has_its_own_channels_of_the_decoder(name):
    """Changing the channels of one colour changes only the distribution of that colour; samples and
    means have the image's shape.
    """
    likelihood, rng = Likelihood(name, 3, components=4), KeyedRNG(0, 0)
    assert likelihood.channels == {"categorical": 256, "logistic_mixture": 12}[name]
    parameters = rng.normal("parameters", 2, 3 * likelihood.channels, 4, 4)
    x = likelihood.target(
        rng.integers("x", 256, 2, 3, 4, 4).to(torch.uint8), rng.uniform("noise", 2, 3, 4, 4)
    )
    before = likelihood(parameters)
    assert before.log_prob(x).shape == before.mean.shape == before.sample().shape == (2, 3, 4, 4)
    parameters[:, likelihood.channels : 2 * likelihood.channels] += rng.normal(
        "more", 2, likelihood.channels, 4, 4
    )
    changed = (likelihood(parameters).log_prob(x) != before.log_prob(x)).all(-1).all(-1).all(0)
    assert changed.tolist() == [False, True, False]


def test_the_normal_keeps_every_constant_and_its_sigma():
    x, z = torch.tensor([[[[-3.0, 0.2]]]]), torch.tensor([[[[-2.5, 1.0]]]])
    fixed, trained = Likelihood("normal", 1, sigma=0.4), Likelihood("normal", 1)
    torch.testing.assert_close(fixed(z).log_prob(fixed.target(x, x)), Normal(z, 0.4).log_prob(x))
    torch.testing.assert_close(fixed(z).mean, z)
    assert not any(p.requires_grad for p in fixed.parameters())
    trained(z).log_prob(x).sum().backward()
    assert trained.log_scale.grad.abs() > 0


@pytest.mark.parametrize(
    "name", ["bernoulli", "categorical", "logistic", "logistic_mixture", "gaussian"]
)
@pytest.mark.parametrize("wrong", [-0.1, 1.5, math.nan])
def test_pixels_outside_the_support_are_one_clear_line(name, wrong):
    x = torch.tensor([0.0, wrong, 1.0]).view(1, 1, 1, 3)
    with pytest.raises(
        UserError,
        match=rf"^model\.likelihood: {name} needs pixels in \[0, 1\].*model\.likelihood=normal",
    ):
        Likelihood(name, 1).target(x, torch.zeros_like(x))


def test_grey_floats_are_read_at_their_nearest_level():
    x = torch.tensor([0.0, 0.5, 0.9999, 1.0]).view(1, 1, 1, 4)
    torch.testing.assert_close(
        Likelihood("logistic", 1).target(x, x) * 255,
        torch.tensor([0.0, 128, 255, 255]).view(1, 1, 1, 4),
    )
