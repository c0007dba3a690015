"""The verdict on a number."""

import math

import pytest
import torch
import torch.nn.functional as F

from core.errors import Unmeasurable
from core.information.bounds import Estimate, best_alpha, infonce_terms
from core.information.scores import of_matrix
from core.information.verdict import cosine_cap, verdict, wants_data


def flat(value: float) -> Estimate:
    return Estimate(value, 0.01, value - 0.02, value + 0.02)


@pytest.mark.parametrize(
    "values, images, calibration, cap, expected",
    [
        ([2.4, 2.5, 2.5, 2.5], 4096, None, math.inf, "converged"),
        ([3.5, 3.8, 4.1, 4.5], 4096, None, math.inf, "K-limited"),
        ([5.5, 6.9, 8.2, 8.25], 4096, None, math.inf, "saturated"),
        ([3.9, 5.3, 5.9, 6.6], 4096, None, math.inf, "saturated"),
        ([1.9, 1.95, 1.97, 1.98], 4096, None, 2.0, "saturated"),
        ([-1, -1, -1, -0.5], 4096, None, math.inf, "critic-limited"),
        ([2.4, 2.5, 2.5, 2.5], 4096, 6.0, math.inf, "critic-limited"),
    ],
)
def test_verdicts(values, images, calibration, cap, expected):
    sweep = [(c, flat(v)) for c, v in zip((64, 512, 1024, 4096), values, strict=True)]
    assert verdict(sweep, images, calibration, cap) == expected


@pytest.mark.parametrize("error, word", [(0.01, "critic-limited"), (0.4, "converged")])
def test_a_gap_that_chance_explains_is_not_critic_limited(error, word):
    sweep = [(c, Estimate(2.5, error, 2.5 - 2 * error, 2.5 + 2 * error)) for c in (64, 512, 4096)]
    assert verdict(sweep, 4096, calibration=3.5) == word


def test_cosine_cap_is_what_a_perfect_code_can_reach_at_most():
    assert cosine_cap(1 / 0.5, 4096) == pytest.approx(3.99, abs=0.015)
    code = torch.eye(2, dtype=torch.float64)[torch.tensor([0, 1])] * 2 - 1
    code = F.normalize(torch.stack([code[0], -code[0]]), dim=1)
    assert infonce_terms(code, code, 3.0, [2]).mean().item() == pytest.approx(cosine_cap(3.0, 2))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", range(4))
def test_a_number_that_is_not_finite_has_no_verdict(bad, place):
    """Every comparison with NaN is false, so without a check the verdict would be "converged"."""
    sweep = [(c, flat(v)) for c, v in zip((64, 512, 1024, 4096), (2.4, 2.5, 2.5, 2.5), strict=True)]
    assert verdict(sweep, 4096, 2.5) == "converged"
    with pytest.raises(Unmeasurable, match="no verdict"):
        verdict(sweep, 4096, bad)
    with pytest.raises(Unmeasurable):
        verdict(sweep, 4096, None, math.nan)
    for field in Estimate._fields:
        number, found = sweep[place]
        spoiled = [*sweep]
        spoiled[place] = number, found._replace(**{field: bad})
        with pytest.raises(Unmeasurable):
            verdict(spoiled, 4096)


def test_a_nan_bound_can_not_choose_alpha():
    scores = [of_matrix(torch.randn(9, 9, generator=torch.Generator().manual_seed(0)))]
    assert best_alpha(scores, (0.01, 0.5, 0.9)) == 0.9
    scores[0].own[3] = math.nan
    with pytest.raises(Unmeasurable, match="alpha"):
        best_alpha(scores, (0.01, 0.5, 0.9))


@pytest.mark.parametrize(
    "slope, word",
    [(0.04, "converged"), (0.06, "K-limited"), (0.45, "K-limited"), (0.6, "saturated")],
)
def test_the_slope_is_nats_an_e_fold_of_candidates(slope, word):
    """The slope is taken between the last number of candidates and the largest one that is at most
    half of it.
    """
    sweep = [(c, flat(1 + slope * math.log(c))) for c in (16, 64, 200, 256)]
    assert verdict(sweep, 10**6, cap=math.inf) == word
    sweep[2] = 200, flat(0.1)  # not looked at
    assert verdict(sweep, 10**6) == word


@pytest.mark.parametrize(
    "gain, error, word",
    [
        (0.05, 0.01, "converged"),  # 2.5 % of the value
        (0.2, 0.01, "data-limited"),
        (0.05, 0.06, "converged"),  # chance explains it
        (0.05, 0.08, "data-limited"),  # at most 0.21, which is more than 10 % of the value
        (-0.2, 0.01, "converged"),
    ],
)
def test_what_the_second_half_of_the_pairs_brings(gain, error, word):
    sweep = [(c, flat(2.0)) for c in (64, 512, 1024, 4096)]
    found = Estimate(gain, error, gain - 2 * error, gain + 2 * error)
    assert verdict(sweep, 4096, gain=found) == word
    rising = [(c, flat(1 + 0.1 * math.log(c))) for c in (64, 512, 1024, 4096)]
    assert verdict(rising, 4096, gain=found) == ("data-limited" if gain > 0.1 else "K-limited")
    with pytest.raises(Unmeasurable):
        verdict(sweep, 4096, gain=found._replace(mean=math.nan))


@pytest.mark.parametrize("gain, word", [(0.2, "K-limited"), (0.22, "data-limited")])
def test_the_verdict_names_what_would_add_more(gain, word):
    """Twice the candidates would add 0.3 log 2 = 0.208 nats, twice the pairs the gain."""
    rising = [(c, flat(1 + 0.3 * math.log(c))) for c in (64, 512, 1024, 4096)]
    found = Estimate(gain, 0.01, gain - 0.02, gain + 0.02)
    assert verdict(rising, 4096, gain=found) == word


@pytest.mark.parametrize(
    "single, error, word",
    [
        (1.95, 0.01, "converged"),  # 2.5 % of the value
        (1.85, 0.01, "data-limited"),
        (1.85, 0.1, "converged"),  # chance explains it
        (2.1, 0.01, "converged"),
    ],
)
def test_critics_that_differ_want_more_pairs(single, error, word):
    found = Estimate(2.0, error, 2 - 2 * error, 2 + 2 * error)
    sweep = [(c, found) for c in (64, 512, 4096)]
    assert verdict(sweep, 4096, single=single) == word
    with pytest.raises(Unmeasurable):
        verdict(sweep, 4096, single=math.nan)


def test_a_slope_is_judged_beside_a_large_value():
    """A shortfall that falls as 1 / C equals the slope."""
    for value, word in ((4.2, "converged"), (3.8, "K-limited")):
        sweep = [(c, flat(value + 0.1 * math.log(c / 4096))) for c in (1024, 2048, 4096)]
        assert verdict(sweep, 4096) == word


def test_an_interval_around_zero_is_no_fault_of_the_critic():
    for mean, error, word in (
        (0.001, 0.002, "nothing found"),
        (-0.002, 0.0005, "nothing found"),
        (0.0, 0.0, "nothing found"),
        (-0.3, 0.01, "critic-limited"),
    ):
        found = Estimate(mean, error, mean - 2 * error, mean + 2 * error)
        assert verdict([(c, found) for c in (64, 4096)], 4096) == word


def test_few_images_and_a_cap_are_ceilings_too():
    sweep = [(c, flat(2.5)) for c in (1024, 4096)]
    assert verdict(sweep, 4096) == "converged"
    assert verdict(sweep, 13) == "saturated"  # log 13 = 2.56
    assert verdict(sweep, 15) == "converged"  # log 15 = 2.71
    assert verdict(sweep, 4096, cap=2.6) == "saturated"


@pytest.mark.parametrize(
    ("gain", "error", "wanted"),
    [(0.05, 0.01, True), (0.05, 0.03, False), (0.02, 0.001, False), (0.031, 0.0154, True)],
)
def test_a_gain_of_more_pairs_is_notable_and_larger_than_chance(gain, error, wanted):
    """3 % of the value, and two standard errors."""
    found = Estimate(gain, error, gain - 1.96 * error, gain + 1.96 * error)
    assert wants_data(1.0, found) == wanted
    if not wanted and found.high < 0.1:
        sweep = [(c, flat(1.0)) for c in (64, 512, 4096)]
        assert verdict(sweep, 4096, gain=found) == "converged"
