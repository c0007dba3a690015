"""Rate-distortion functions against each other and against convex optimisation, and Blahut-Arimoto
against all of them.
"""

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import bernoulli, entropy, norm

from core.information.blahut_arimoto import blahut_arimoto
from core.information.rate_distortion import WaterFilling, bernoulli_rate, gaussian_rate

EIGENVALUES = (4.0, 0.3, 1.5, 0.3, 0.02)


def best_split(eigenvalues, total):
    """R(D) of independent Gaussian components as a convex program: the distortions D_i with sum
    `total` and the least rate.
    """
    values = np.array(eigenvalues)
    found = minimize(
        lambda d: 0.5 * np.log(values / d).sum(),
        values * total / values.sum(),
        jac=lambda d: -0.5 / d,
        bounds=[(1e-9, value) for value in values],
        constraints={
            "type": "eq",
            "fun": lambda d: d.sum() - total,
            "jac": lambda d: np.ones_like(d),
        },
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 500},
    )
    assert found.success
    return found.fun


def test_a_gaussian_channel_reaches_the_gaussian_curve():
    # backward channel: x = y + e, e ~ N(0, D) independent of y; I(X; Y) = h(X) - h(e), with scipy's
    # entropies
    for distortion in (0.1, 0.7, 1.9):
        assert gaussian_rate(2.0, distortion) == pytest.approx(
            norm(0, 2**0.5).entropy() - norm(0, distortion**0.5).entropy(), abs=1e-12
        )
    assert gaussian_rate(2.0, 2.0) == gaussian_rate(2.0, 5.0) == 0


def test_the_bernoulli_curve_is_a_difference_of_entropies():
    assert bernoulli_rate(0.3, 0.1) == pytest.approx(
        float(bernoulli(0.3).entropy() - bernoulli(0.1).entropy()), abs=1e-12
    )
    assert bernoulli_rate(0.8, 0.0) == pytest.approx(entropy([0.8, 0.2]), abs=1e-12)
    assert bernoulli_rate(0.3, 0.3) == bernoulli_rate(0.3, 1.0) == bernoulli_rate(0.0, 0.0) == 0


@pytest.mark.parametrize("total", [0.01, 0.1, 0.6, 1.0, 3.0, 6.0])
def test_water_filling_is_the_best_split_of_the_distortion(total):
    point = WaterFilling(EIGENVALUES).at_distortion(total)
    assert point.distortion == pytest.approx(total, rel=1e-12)
    assert point.rate == pytest.approx(best_split(EIGENVALUES, total), abs=1e-5)


def test_the_three_ways_to_a_point_agree():
    curve = WaterFilling(EIGENVALUES)
    for rate in (0.0, 0.01, 0.5, 2.0, 10.0, 40.0):
        point = curve.at_rate(rate)
        assert point.rate == pytest.approx(rate, abs=1e-10)
        assert curve.at_distortion(point.distortion).rate == pytest.approx(rate, abs=1e-9)
        assert curve.at_slope(point.slope) == pytest.approx(point, rel=1e-9, abs=1e-12)
        if rate:
            step = 1e-6 * point.distortion
            sides = [curve.at_distortion(point.distortion + sign * step).rate for sign in (1, -1)]
            assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(point.slope, rel=1e-5)


def test_one_component_is_the_gaussian_and_a_dead_one_costs_nothing():
    assert WaterFilling([2.0]).at_distortion(0.3).rate == pytest.approx(
        gaussian_rate(2.0, 0.3), abs=1e-12
    )
    assert WaterFilling([2.0, 0.0]).at_distortion(0.3).rate == pytest.approx(
        gaussian_rate(2.0, 0.3), abs=1e-12
    )
    end = WaterFilling(EIGENVALUES).at_distortion(100.0)
    assert end.rate == 0 and end.distortion == pytest.approx(sum(EIGENVALUES))
    assert WaterFilling(EIGENVALUES).at_slope(-1e-3).rate == 0


@pytest.mark.parametrize("p", [0.5, 0.3, 0.05])
def test_blahut_arimoto_equals_the_bernoulli_curve(p):
    for slope in (-1.0, -3.0, -8.0):
        found = blahut_arimoto([1 - p, p], 1 - np.eye(2), slope)
        truth = bernoulli_rate(p, found.distortion)
        assert found.lower - 1e-9 <= truth <= found.upper + 1e-9
        assert found.upper - found.lower <= 1e-6


@pytest.mark.parametrize("distortion", [0.05, 0.25, 0.6, 0.9])
def test_blahut_arimoto_equals_the_gaussian_curve(distortion):
    grid = np.linspace(-6, 6, 301)
    p = norm.pdf(grid)
    found = blahut_arimoto(p / p.sum(), (grid[:, None] - grid) ** 2, -0.5 / distortion, gap=5e-5)
    truth = gaussian_rate(1.0, found.distortion)
    assert found.upper == pytest.approx(truth, abs=1e-4) and found.lower == pytest.approx(
        truth, abs=1e-4
    )
    assert found.distortion == pytest.approx(distortion, rel=1e-2)


def test_its_code_has_the_stated_rate_and_distortion():
    rng = np.random.default_rng(0)
    p, d = np.array([0.5, 0.0, 0.2, 0.3]), rng.uniform(size=(4, 3))
    found = blahut_arimoto(p, d, -4.0, gap=1e-9)
    joint = p[:, None] * found.conditional
    assert (joint * d).sum() == pytest.approx(found.distortion, abs=1e-12)
    assert entropy(joint.ravel(), np.outer(p, joint.sum(0)).ravel()) == pytest.approx(
        found.upper, abs=1e-8
    )
    other = blahut_arimoto(
        p, d, -9.0, gap=1e-9
    )  # the line through one point lies below all other points
    assert other.upper >= found.lower + found.slope * (other.distortion - found.distortion) - 1e-12


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: gaussian_rate(0.0, 1.0), "variance"),
        (lambda: gaussian_rate(1.0, 0.0), "distortion"),
        (lambda: bernoulli_rate(1.2, 0.1), "probability"),
        (lambda: bernoulli_rate(0.5, -0.1), "distortion"),
        (lambda: WaterFilling([[1.0]]), "eigenvalues"),
        (lambda: WaterFilling([1.0, -0.1]), "eigenvalues"),
        (lambda: WaterFilling([0.0]), "eigenvalues"),
        (lambda: WaterFilling([1.0]).at_distortion(0.0), "distortion"),
        (lambda: WaterFilling([1.0]).at_rate(-1.0), "rate"),
        (lambda: WaterFilling([1.0]).at_slope(0.0), "slope"),
        (lambda: blahut_arimoto([0.5, 0.6], np.eye(2), -1.0), "probabilities"),
        (lambda: blahut_arimoto([1.5, -0.5], np.eye(2), -1.0), "probabilities"),
        (lambda: blahut_arimoto([0.5, 0.5], np.eye(3), -1.0), "distortions"),
        (lambda: blahut_arimoto([0.5, 0.5], -np.eye(2), -1.0), "distortions"),
        (lambda: blahut_arimoto([0.5, 0.5], np.eye(2), 1.0), "slope"),
        (lambda: blahut_arimoto([0.9, 0.1], 1 - np.eye(2), -2.3, gap=1e-12, most=3), "gap"),
        (lambda: blahut_arimoto([0.9, 0.1], 1 - np.eye(2), math.nan), "slope"),
    ],
)
def test_invalid_settings_are_refused(call, said):
    with pytest.raises(ValueError, match=f"^{said}: "):
        call()
