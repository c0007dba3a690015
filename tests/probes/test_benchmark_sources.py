"""The sources of known information: their closed forms against scipy, against estimates, and
against the mean of the pointwise information.
"""

import math
from functools import partial

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr

from probes.samples import benchmark_sources as known
from probes.samples import panel
from probes.samples.estimate import estimate
from tests.sources import gaussian_pairs


@pytest.mark.parametrize("name", known.SUITE)
def test_the_closed_form_is_the_mean_of_the_pointwise_information(name):
    made = known.SUITE[name](100_000, 0)
    assert len(made.x) == len(made.y) == len(made.pointwise) == 100_000
    error = made.pointwise.std() / math.sqrt(len(made.pointwise))
    assert abs(made.pointwise.mean() - made.information) <= 4 * error + 1e-9


def test_the_codes_of_the_optimal_critic_are_the_pointwise_information():
    made = gaussian_pairs(100, 3, 2.0, 0)
    np.testing.assert_allclose((made.query * made.key).sum(1), made.pointwise, rtol=1e-9, atol=1e-9)


def test_pointwise_information_by_the_densities_of_scipy():
    made = known.gaussian(1.3, 2)(50, 0)
    rho = known.correlation(1.3, 2)
    joint = stats.multivariate_normal(
        cov=np.block([[np.eye(2), rho * np.eye(2)], [rho * np.eye(2), np.eye(2)]])
    )
    alone = stats.multivariate_normal(cov=np.eye(2))
    expected = joint.logpdf(np.c_[made.x, made.y]) - alone.logpdf(made.x) - alone.logpdf(made.y)
    np.testing.assert_allclose(made.pointwise, expected)
    made, rho = known.student(0.4, 2, 3)(50, 0), known.correlation(0.4, 2)
    joint = stats.multivariate_t(
        shape=np.block([[np.eye(2), rho * np.eye(2)], [rho * np.eye(2), np.eye(2)]]), df=3
    )
    alone = stats.multivariate_t(shape=np.eye(2), df=3)
    expected = joint.logpdf(np.c_[made.x, made.y]) - alone.logpdf(made.x) - alone.logpdf(made.y)
    np.testing.assert_allclose(made.pointwise, expected)


def test_maps_are_invertible():
    x = np.linspace(-6, 6, 4001)
    for of_one in (known.half_cube, known.wiggly):
        assert (np.diff(of_one(x)) > 0).all()
    rolled = known.swiss_roll(x[:, None])
    angle = np.linalg.norm(rolled, axis=1) * 21
    np.testing.assert_allclose((angle / (1.5 * math.pi) - 1) / 2, ndtr(x), atol=1e-12)
    plane = np.random.default_rng(0).normal(size=(100, 3))
    assert np.allclose(known.spiral(known.spiral(plane), -0.5), plane)


CLOSE = [  # name, and the largest shortfall with 1,500 pairs
    ("gaussian 5 x 5 of 2 nats", 0.1),
    ("gaussian 20 x 20 of 2 nats", 0.3),
    ("gaussian 25 x 25 in 2 dimensions", 0.1),
    ("normal cdf 5 x 5", 0.1),
    ("half-cube 5 x 5", 0.1),
    ("wiggly 1 x 1", 0.08),
    ("swiss roll 2 x 1", 0.12),
    ("spiral 3 x 3", 0.5),
    ("additive uniform 0.1", 0.3),
    ("additive uniform 0.75", 0.12),
    ("student 3 x 3 of 2 degrees", 0.15),
    ("channel of 16 letters", 0.12),
    ("8 contents on a circle", 0.7),
]


@pytest.mark.parametrize("name, shortfall", CLOSE)
def test_lower_bounds_stay_below_the_truth_and_near_it(name, shortfall, monkeypatch):
    monkeypatch.setattr(panel, "Plan", partial(panel.Plan, check_every=10, patience=2))
    monkeypatch.setattr(panel, "BATCH", 128)
    made = known.SUITE[name](1500, 3)
    found = estimate(made.x, made.y, ("infonce", "alpha", "nwj"))["estimators"]
    own = made.pointwise.mean()  # of this sample
    for entry in found.values():
        assert entry["value"] <= max(made.information, own) + 3 * entry["error"] + 1e-9
    least = min(made.information, own) - shortfall
    assert found["infonce"]["value"] >= least - 3 * found["infonce"]["error"]
