"""The parts of the rate, on codes whose densities are all closed forms:

x ~ N(0, 1) in two dimensions,  z = A x + s e,  p(z) = N(0, 1)
"""

import math

import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from core.errors import Unmeasurable
from core.information.codes import Codes, codes, joined, normal_factors
from core.information.collapse import active_units, collapse_status
from core.information.scores import gaussian
from core.randomness import KeyedRNG
from probes.latents import rate_parts as collapse
from probes.latents.rate_parts import decomposition, dimension_rates, log_marginals

MAP = torch.tensor([[0.8, 0.3], [0.5, 0.7]], dtype=torch.float64)
SIGMA, IMAGES = 0.7, 8192
STANDARD = Independent(Normal(torch.zeros(2, dtype=torch.float64), 1.0), 1)
COVARIANCE = MAP @ MAP.T + SIGMA**2 * torch.eye(2, dtype=torch.float64)  # of q(z)


def linear_gaussian(n: int = IMAGES) -> Codes:
    """Images and noise with exactly the moments of independent standard normals, so quadratic
    functions of them have no sampling error.
    """
    joint = KeyedRNG(0, 0).normal("joint", n, 4).double()
    joint -= joint.mean(0)
    joint = joint @ torch.linalg.inv(torch.linalg.cholesky(joint.T @ joint / n)).T
    mean = joint[:, :2] @ MAP.T
    return codes(Independent(Normal(mean, SIGMA), 1), mean + SIGMA * joint[:, 2:], STANDARD)


@pytest.fixture(scope="module")
def found():
    return decomposition(linear_gaussian(), STANDARD)


SPREAD = COVARIANCE.diagonal()
INFORMATION = 0.5 * (COVARIANCE.logdet() - 2 * math.log(SIGMA**2)).item()
TOTAL_CORRELATION = 0.5 * (SPREAD.log().sum() - COVARIANCE.logdet()).item()
DIMENSION_WISE = 0.5 * (SPREAD - 1 - SPREAD.log()).sum().item()
RATE = 0.5 * (SPREAD - 1 - math.log(SIGMA**2)).sum().item()


def test_the_closed_forms_are_those_of_torch():
    whole = MultivariateNormal(torch.zeros(2, dtype=torch.float64), COVARIANCE)
    apart = MultivariateNormal(torch.zeros(2, dtype=torch.float64), COVARIANCE.diagonal().diag())
    unit = MultivariateNormal(
        torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    )
    assert kl_divergence(whole, apart).item() == pytest.approx(TOTAL_CORRELATION)
    assert kl_divergence(apart, unit).item() == pytest.approx(DIMENSION_WISE)
    assert pytest.approx(RATE) == INFORMATION + TOTAL_CORRELATION + DIMENSION_WISE


def test_the_rate_is_information_and_total_correlation_and_dimension_wise_kl(found):
    parts = found["on_these_images"]
    total = sum(
        parts[name]["value"] for name in ("information", "total_correlation", "dimension_wise_kl")
    )
    assert total == pytest.approx(RATE, abs=1e-3)
    assert total == pytest.approx(parts["rate"]["value"], abs=1e-9)


@pytest.mark.parametrize(
    ("name", "truth"),
    [
        ("information", INFORMATION),
        ("total_correlation", TOTAL_CORRELATION),
        ("dimension_wise_kl", DIMENSION_WISE),
    ],
)
def test_each_part_is_its_closed_form(found, name, truth):
    part = found["on_these_images"][name]
    assert part["value"] == pytest.approx(truth, abs=1e-3)
    assert part["low"] < truth < part["high"]


def test_intervals_hold_the_closed_forms_and_shrink_with_more_images(found):
    for name, truth in (
        ("total_correlation", TOTAL_CORRELATION),
        ("dimension_wise_kl", DIMENSION_WISE),
    ):
        few = decomposition(linear_gaussian(200), STANDARD)
        assert few[name]["low"] - 1e-3 <= truth <= few[name]["high"] + 1e-3
        assert found[name]["high"] - found[name]["low"] < 0.1 * (
            few[name]["high"] - few[name]["low"]
        )
        assert found[name]["low"] - 1e-3 <= truth <= found[name]["high"] + 1e-3


def test_dimension_rates_sum_to_the_rate():
    read = linear_gaussian()
    of_dimensions = dimension_rates(read, STANDARD)
    assert sum(of_dimensions) == pytest.approx(RATE, abs=1e-6)
    assert of_dimensions == pytest.approx(
        kl_divergence(Normal(read.mean, read.sigma), Normal(0.0, 1.0)).mean(0).tolist()
    )


def test_a_prior_that_does_not_factorise_has_no_dimension_wise_kl(found):
    """The mixture of two equal standard normals is the standard normal, but torch does not know
    this.
    """
    twice = Independent(Normal(torch.zeros(2, 2, dtype=torch.float64), 1.0), 1)
    mixture = MixtureSameFamily(Categorical(torch.ones(2, dtype=torch.float64)), twice)
    read = linear_gaussian()
    q = Independent(Normal(read.mean, read.sigma), 1)
    sampled = codes(q, read.z, mixture)
    assert read.closed and not sampled.closed
    assert sampled.rate.mean().item() == pytest.approx(RATE, abs=1e-6)  # by the exact moments
    assert normal_factors(mixture) is None and dimension_rates(sampled, mixture) is None
    parts = decomposition(sampled, mixture)
    assert "dimension_wise_kl" not in parts and "dimension_wise_kl" not in parts["on_these_images"]
    assert (
        parts["on_these_images"]["total_correlation"]
        == found["on_these_images"]["total_correlation"]
    )


def test_marginals_equal_torch_distributions(monkeypatch):
    monkeypatch.setattr(collapse, "ROWS", 7)
    monkeypatch.setattr(collapse, "COLUMNS", 11)
    rng = KeyedRNG(0, 0)
    mean, z = (rng.normal(name, 40, 3).double() for name in ("mean", "z"))
    sigma = 0.1 + rng.uniform("sigma", 40, 3).double()
    mean[5, 0], z[5, 0], sigma[:, 0] = 60.0, 60.01, 0.5  # all others are 100 sigma away
    dense = Normal(mean, sigma).log_prob(z[:, None])  # [i, k, j] = log q(z_ij | x_k)
    others = dense.masked_fill(torch.eye(40, dtype=torch.bool)[:, :, None], -math.inf)
    with_own, without = log_marginals(mean, sigma, z)
    torch.testing.assert_close(with_own, dense.logsumexp(1) - math.log(40))
    torch.testing.assert_close(without, others.logsumexp(1) - math.log(39))
    assert without[5, 0] < -5000


def test_the_aggregate_posterior_is_a_mean_of_all_and_of_all_others():
    read = linear_gaussian(30)
    each = Independent(Normal(read.mean, read.sigma), 1).log_prob(read.z[:, None])  # [i, k]
    of_all, of_others = collapse.log_aggregate(gaussian(read.mean, read.sigma, read.z))
    torch.testing.assert_close(of_all, each.exp().mean(1).log().double())
    own = torch.eye(30, dtype=torch.bool)
    expected = (each.exp().masked_fill(own, 0).sum(1) / 29).log().double()
    torch.testing.assert_close(of_others, expected)


def test_too_many_images_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr(collapse, "PAIRS", 2 * 100**2)
    assert decomposition(linear_gaussian(500), STANDARD)["on_these_images"]["images"] == 100


def test_a_code_that_ignores_the_image_has_collapsed_at_any_rate():
    ignored = torch.full((300, 64), 0.5)
    sigma = torch.full((300, 64), 0.8)
    z = ignored + sigma * KeyedRNG(0, 0).normal("z", 300, 64)
    prior = Independent(Normal(torch.zeros(64), 1.0), 1)
    read = joined(
        [
            codes(Independent(Normal(ignored[part], sigma[part]), 1), z[part], prior)
            for part in (slice(200), slice(200, 300))
        ]
    )
    assert read.rate.mean() > 5
    assert (
        collapse_status(read).sentence
        == "collapsed: 0 of 64 units active, z carries at most 0.00 nats"
    )
    seen = linear_gaussian(500)
    assert collapse_status(seen).sentence == "" and collapse_status(seen).active_units == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["mean", "sigma", "z", "rate"])
def test_a_code_that_is_not_finite_is_refused_and_not_called_collapsed(field, bad):
    """max(0, NaN) is 0, which would look like a collapse."""
    read = linear_gaussian(200)
    value = getattr(read, field).clone()
    value[3] = bad
    with pytest.raises(Unmeasurable, match="^collapse"):
        collapse_status(read._replace(**{field: value}))


def test_a_unit_is_active_by_the_variance_of_its_mean_and_not_by_its_nats():
    """A precise code with small means carries nats, but is not active; a broad code is active."""
    read = linear_gaussian(500)
    assert active_units(read.mean * torch.tensor([1e-3, 1.0])) == 1
    variance = read.mean.var(0)
    for share, active in ((0.0099, 0), (0.0101, 2)):
        assert active_units(read.mean * (share / variance).sqrt()) == active
