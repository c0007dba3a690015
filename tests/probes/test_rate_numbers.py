"""The numbers of the rate's report, computed again from the codes, with counts and intervals."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from core.frozen import Latents
from core.information.rate_distortion import WaterFilling
from probes.latents import curve
from probes.latents import rate as module

N, L, CHOSEN = 48, 3, 12


@pytest.fixture
def latents():
    """Codes of three dimensions, of which the last is unused, with known distortions."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(N, L, generator=generator) * torch.tensor([3.0, 1.0, 0.0])
    sigma = torch.tensor([0.25, 0.5, 1.0]).expand(N, L)
    z = mean + sigma * torch.randn(N, L, generator=generator)
    return Latents(mean, sigma, z, 50 + torch.randn(N, generator=generator))


def half(values: torch.Tensor) -> float:
    return 1.96 * values.double().std().item() / math.sqrt(len(values))


def test_each_entry_is_of_its_own_terms_and_the_bounds_are_of_the_chosen_images(
    latents, monkeypatch
):
    monkeypatch.setattr(module, "CANDIDATES", CHOSEN)
    prior = Independent(Normal(torch.zeros(L), torch.ones(L)), 1)
    found = module.rate(latents, prior, 24, True)
    mean, sigma, z, d = latents
    r = (0.5 * (mean**2 + sigma**2 - 1) - sigma.log()).sum(1)
    for name, terms in (("rate", r), ("distortion", d), ("nelbo", r + d)):
        held = found[name]
        assert held["value"] == pytest.approx(terms.double().mean().item(), rel=1e-5)
        assert held["high"] - held["value"] == pytest.approx(half(terms), rel=0.01)
        assert held["value"] - held["low"] == pytest.approx(half(terms), rel=0.01)
        assert held["bits_per_dim"] == pytest.approx(held["value"] / 24 / math.log(2))
    assert (found["images"], found["image_values"], found["latent_dimensions"]) == (N, 24, L)
    assert found["active_units"] == 2 and found["ceiling"] == math.log(CHOSEN)
    assert f"{CHOSEN} candidates" in found["lower"]["estimator"]
    assert f"{CHOSEN} candidates" in found["upper"]["estimator"]
    assert "leave-one-out" in found["upper"]["estimator"]

    some = torch.arange(CHOSEN) * N // CHOSEN
    log_q = Independent(Normal(mean[some], sigma[some]), 1).log_prob(z[some][:, None])
    own = log_q.diagonal()
    lower = own - log_q.logsumexp(1) + math.log(CHOSEN)
    rest = log_q.masked_fill(torch.eye(CHOSEN, dtype=torch.bool), -math.inf)
    upper = own - rest.logsumexp(1) + math.log(CHOSEN - 1)
    for name, terms in (("lower", lower), ("upper", upper)):
        assert found[name]["value"] == pytest.approx(terms.mean().item(), abs=1e-4)
        assert found[name]["side"] == f"{name} bound on I(X; Z)"
    kl = found["marginal_kl"]
    assert kl["high"] == pytest.approx(found["rate"]["value"] - found["lower"]["value"])
    assert kl["low"] >= max(0.0, found["rate"]["value"] - found["upper"]["value"]) - 1e-9
    assert found["on_these_images"]["images"] == N
    rates = found["dimension_rates"]
    assert len(rates) == L and sum(rates) == pytest.approx(found["rate"]["value"], rel=1e-5)
    assert rates[2] == pytest.approx(0.0, abs=1e-6)


def test_what_is_not_known_is_left_out(latents):
    prior = Independent(Normal(torch.zeros(L), torch.ones(L)), 1)
    found = module.rate(latents._replace(distortion=None), prior, 24, False)
    assert not {"distortion", "nelbo"} & found.keys()
    assert "bits_per_dim" not in found["rate"] and found["ceiling"] == math.log(N)
    assert "bits_per_dim" in module.rate(latents, prior, 24, True)["lower"]


def test_a_reference_is_drawn_from_no_rate_to_the_least_price():
    spectrum, sigma = np.array([4.0, 1.0, 0.25]), 0.5
    known = curve.Reference(WaterFilling(spectrum), sigma)
    points = known.drawn()
    constant = 1.5 * math.log(2 * math.pi * sigma**2)
    assert points[0]["rate"] == pytest.approx(0.0, abs=1e-9)
    assert points[0]["distortion"] == pytest.approx(spectrum.sum() / (2 * sigma**2) + constant)
    level = curve.LEAST_BETA * sigma**2  # of a nat that costs LEAST_BETA nats of distortion
    assert points[-1]["rate"] == pytest.approx(0.5 * np.log(spectrum / level).sum())
    assert points[-1]["distortion"] == pytest.approx(3 * level / (2 * sigma**2) + constant)
    assert len(points) == curve.SMOOTH // 2
    rates, distortions = ([point[key] for point in points] for key in ("rate", "distortion"))
    assert rates == sorted(rates) and distortions == sorted(distortions, reverse=True)
    assert known.squared_error(known.distortion(2.5)) == pytest.approx(2.5)
