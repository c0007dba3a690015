"""The bounds against closed forms and plain O(n^2) references."""

import math

import pytest
import torch
import torch.nn.functional as F

from core.data.sprites import best_infonce
from core.information.bounds import (
    infonce,
    infonce_sweep,
    infonce_symmetric,
    infonce_terms,
    interval,
    sandwich,
)
from core.information.scores import gaussian, of_matrix
from tests import sources


def gaussian_pairs(n: int, correlation: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, generator=g, dtype=torch.float64)
    return x, correlation * x + math.sqrt(1 - correlation**2) * torch.randn(
        n, 1, generator=g, dtype=torch.float64
    )


def test_every_number_of_candidates_equals_a_plain_softmax():
    q, k = (
        F.normalize(
            torch.randn(700, 8, generator=torch.Generator().manual_seed(s), dtype=torch.float64),
            dim=1,
        )
        for s in (0, 1)
    )
    counts = [2, 17, 257, 700]
    terms = infonce_terms(q, k, 7.0, counts)
    scores = 7 * q @ k.T
    for row, c in zip(terms, counts, strict=True):
        places = (torch.arange(700)[:, None] + torch.arange(c)) % 700
        expected = math.log(c) - F.cross_entropy(
            scores.gather(1, places), torch.zeros(700, dtype=torch.long), reduction="none"
        )
        torch.testing.assert_close(row, expected, rtol=1e-12, atol=1e-12)
    whole = math.log(700) - F.cross_entropy(scores, torch.arange(700))
    torch.testing.assert_close(terms[-1].mean(), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n, scale", [(3, 5.0), (40, -900.0), (513, 3000.0), (1100, 700.0)])
def test_a_sweep_is_exact_for_any_scores_and_blocks(n, scale):
    """Also if an anchor's scores differ by more than exp can hold, and if blocks are not full."""
    q, k = (
        F.normalize(torch.randn(n, 4, generator=rng(seed), dtype=torch.float64), dim=1)
        for seed in (0, 1)
    )
    counts = sorted({2, min(n, 17), min(n, 600), n})
    scores = (scale * q @ k.T).gather(1, (torch.arange(n)[:, None] + torch.arange(n)) % n)
    for c, found in zip(counts, infonce_sweep(q, k, scale, counts), strict=True):
        share = scores[:, :c].softmax(1)
        terms = math.log(c) + scores[:, :c].log_softmax(1)[:, 0]
        torch.testing.assert_close(found.terms, terms, rtol=1e-12, atol=1e-11)
        place = (torch.arange(n)[:, None] + torch.arange(1, c)) % n
        taken = torch.zeros(n, dtype=torch.float64)
        taken.index_add_(0, place.flatten(), share[:, 1:].flatten())
        torch.testing.assert_close(found.influence, terms - taken, rtol=1e-12, atol=1e-11)


def test_the_optimal_critic_of_a_gaussian_pair_stays_below_the_truth_and_near_it():
    """log p(y|x) / p(y) of a Gaussian pair is bilinear in (x, x^2, 1) and (y, y^2, 1), so the ideal
    critic can be given as codes.
    """
    rho, n = 0.8, 4096
    truth = -0.5 * math.log(1 - rho**2)
    x, y = gaussian_pairs(n, rho, 0)
    variance = 1 - rho**2
    code_x = torch.cat(
        [x * rho / variance, -(rho**2) * x**2 / (2 * variance), torch.ones_like(x)], 1
    )
    code_y = torch.cat([y, torch.ones_like(y), -(y**2) * rho**2 / (2 * variance)], 1)
    estimates = [interval(row) for row in infonce_terms(code_x, code_y, 1.0, [16, 256, n])]
    assert all(e.mean < truth + 3 * e.error for e in estimates)
    assert abs(estimates[-1].mean - truth) < 3 * estimates[-1].error + 0.01
    assert estimates[0].mean < estimates[-1].mean + 2 * estimates[-1].error


def test_a_discrete_channel_reaches_the_best_possible_value():
    """Identical views of M equally likely values: the ideal critic attains log(K + 1) - E log(1 +
    Binomial(K, 1/M)) and no more.
    """
    content = torch.randint(16, (6000,), generator=torch.Generator().manual_seed(0))
    code = F.one_hot(content, 16).double()
    for k in (1, 15, 255):
        estimate = interval(infonce_terms(code, code, 60.0, [k + 1])[0])
        assert abs(estimate.mean - best_infonce(k, 16)) < 4 * estimate.error + 1e-9
        assert best_infonce(k, 16) < math.log(16)


def test_best_infonce_in_the_limits_and_by_simulation():
    assert best_infonce(10, 1) == pytest.approx(0, abs=1e-12)
    assert best_infonce(10**6, 288) == pytest.approx(math.log(288), abs=1e-3)
    assert best_infonce(3, 10**9) == pytest.approx(math.log(4), abs=1e-6)
    rng = torch.distributions.Binomial(500, torch.tensor(1 / 32)).sample((200_000,))
    expected = math.log(501) - torch.log1p(rng).double().mean().item()
    assert best_infonce(500, 32) == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("critic", ["best", "flat", "opposed", "hubs"])
@pytest.mark.parametrize("candidates", [32, 200])
def test_intervals_cover_the_bounds_own_mean(critic, candidates):
    """95% intervals of 500 seeds against the mean of all seeds: neither too narrow nor too wide,
    for the best critic and for bad ones. With the terms alone, the intervals of a critic that
    prefers wrong pairs would cover the mean in 77 of 100 seeds, because all anchors share its
    mistakes.
    """
    found, alone = [], []
    for seed in range(500):
        made = sources.gaussian_pairs(200, 4, 1.0, seed)
        scale = {"best": 1.0, "hubs": 1.0, "flat": 0.3, "opposed": -0.3}[critic]
        key = made.key
        if critic == "hubs":  # keys that are close to every query
            key = torch.cat([key, 1.5 * torch.randn(200, 1, generator=rng(seed)).double()], 1)
        query = torch.cat([made.query, torch.ones(200, key.shape[1] - made.key.shape[1])], 1)
        (bound,) = infonce_sweep(query.double(), key.double(), scale, [candidates])
        found.append(interval(*bound))
        alone.append(interval(bound.terms))
    mean = sum(estimate.mean for estimate in found) / 500
    held = [sum(e.low <= mean <= e.high for e in each) for each in (found, alone)]
    assert 455 <= held[0] <= 488, held
    assert held[1] < 410 or critic != "opposed", held


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_influence_of_a_sweep_is_that_of_the_matrix():
    """At C = n a key is a candidate of all anchors, as in `infonce`; else of the C - 1 before
    it.
    """
    q, k = (torch.randn(40, 5, generator=rng(i), dtype=torch.float64) for i in (1, 2))
    whole = infonce(of_matrix(2.0 * q @ k.T))
    few, last = infonce_sweep(q, k, 2.0, [7, 40])
    torch.testing.assert_close(last, whole)
    share = torch.zeros(40, 40, dtype=torch.float64)
    for i in range(40):
        places = [(i + step) % 40 for step in range(7)]
        share[i, places] = (2.0 * q[i] @ k[places].T).softmax(0)
        share[i, i] = 0
    torch.testing.assert_close(few.influence, few.terms - share.sum(0))
    both = infonce_symmetric(of_matrix(2.0 * q @ k.T))
    back = infonce(of_matrix(2.0 * k @ q.T))
    torch.testing.assert_close(both.influence, (whole.influence + back.influence) / 2)
    torch.testing.assert_close(both.terms, (whole.terms + back.terms) / 2)


def test_an_interval_holds_the_mean_of_normal_terms_95_times_of_100():
    terms = torch.randn(4000, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = [interval(row) for row in terms]
    share = sum(estimate.low <= 0 <= estimate.high for estimate in found) / 4000
    assert share == pytest.approx(0.95, abs=0.01)
    assert found[0].error == pytest.approx((terms[0].std() / 20).item())
    assert interval(terms[0], 3 * terms[0]).error == pytest.approx(3 * found[0].error)
    assert interval(terms[0], 3 * terms[0]).mean == found[0].mean


def test_resampling_pairs_would_make_an_interval_that_excludes_the_point():
    """Why `interval` holds the candidates fixed: duplicates of a pair act as false negatives and
    pull the value down.
    """
    code = F.normalize(
        torch.randn(1000, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        dim=1,
    )
    point = interval(infonce_terms(code, code, 30.0, [1000])[0])
    rows = torch.randint(1000, (20, 1000), generator=torch.Generator().manual_seed(1))
    resampled = torch.stack([infonce_terms(code[r], code[r], 30.0, [1000]).mean() for r in rows])
    assert resampled.max() < point.low


@pytest.mark.parametrize(
    "d, expected", [(8, (5.61, 5.87, 6.15, 6.02)), (16, (8.28, 14.33, 21.3, 14.48))]
)
def test_the_sandwich_on_a_linear_gaussian_channel(d, expected):
    """x ~ N(0, I), q(z|x) = N(a x, s^2): I and R are closed forms, and the bounds meet the
    published figures at C = 4096.
    """
    information, rate = expected[1], expected[3]
    # I = d/2 log(1 + a^2/s^2) and R = d/2 (a^2 + s^2 - 1 - log s^2) determine a and s; the smaller
    # total variance is below 1
    snr = math.exp(2 * information / d) - 1
    surplus = 2 * (rate - information) / d  # (v - 1 - log v) with v = a^2 + s^2
    low, high = 1e-3, 1.0
    for _ in range(60):
        v = (low + high) / 2
        low, high = (v, high) if v - 1 - math.log(v) > surplus else (low, v)
    s2 = v / (1 + snr)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4096, d, generator=g, dtype=torch.float64)
    mean, sigma = math.sqrt(v - s2) * x, torch.full((4096, d), math.sqrt(s2), dtype=torch.float64)
    z = mean + sigma * torch.randn(4096, d, generator=g, dtype=torch.float64)
    lower, upper = (interval(*bound) for bound in sandwich(gaussian(mean, sigma, z)))
    assert lower.mean - 3 * lower.error <= information <= upper.mean + 3 * upper.error
    assert lower.mean <= min(information, math.log(4096)) + 3 * lower.error
    assert lower.mean == pytest.approx(expected[0], abs=0.1)
    assert upper.mean == pytest.approx(expected[2], abs=0.3 if d == 8 else 0.8)


def test_the_sandwich_equals_torch_distributions():
    g = torch.Generator().manual_seed(0)
    mean, sigma = (
        torch.randn(30, 3, generator=g, dtype=torch.float64),
        torch.rand(30, 3, generator=g, dtype=torch.float64) + 0.1,
    )
    z = mean + sigma * torch.randn(30, 3, generator=g, dtype=torch.float64)
    log_q = torch.distributions.Normal(mean, sigma).log_prob(z[:, None]).sum(2)
    lower, upper = (bound.terms for bound in sandwich(gaussian(mean, sigma, z)))
    torch.testing.assert_close(
        lower, log_q.diag() - log_q.logsumexp(1) + math.log(30), rtol=1e-9, atol=1e-9
    )
    others = log_q[~torch.eye(30, dtype=torch.bool)].view(30, 29)
    torch.testing.assert_close(
        upper, log_q.diag() - others.logsumexp(1) + math.log(29), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("candidates", [[1], [4, 3], [5], [2, 2]])
def test_impossible_candidates_are_refused(candidates):
    with pytest.raises(ValueError, match="candidates"):
        infonce_terms(torch.eye(4), torch.eye(4), 1.0, candidates)
