"""Every bound against plain formulas and against sources of known information: it stays on its side
of the truth, and its interval covers its mean.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from core.information import bounds, scores
from core.information.bounds import Bound, interval
from probes.samples.benchmark_sources import correlation
from probes.samples.estimate import UNSEEN
from tests.sources import gaussian_pairs

LOWER = {
    "infonce": bounds.infonce,
    "symmetric": bounds.infonce_symmetric,
    "alpha": lambda s: bounds.alpha_bound(s, 0.01),
    "nwj": bounds.nwj,
    "js": bounds.js,
}


def optimal(n: int, information: float, seed: int, d: int = 20) -> scores.Scores:
    pairs = gaussian_pairs(n, d, information, seed)
    return scores.paired(pairs.query, pairs.key)


def test_each_bound_is_its_formula():
    n, a = 40, 0.3
    f = 2 * torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s, own, off = scores.of_matrix(f), f.diagonal(), ~torch.eye(n, dtype=torch.bool)
    negatives = f[off].view(n, n - 1)
    assert bounds.infonce(s).terms.mean() == pytest.approx(
        math.log(n) - F.cross_entropy(f, torch.arange(n)).item()
    )
    both = (F.cross_entropy(f, torch.arange(n)) + F.cross_entropy(f.T, torch.arange(n))).item() / 2
    assert bounds.infonce_symmetric(s).terms.mean() == pytest.approx(math.log(n) - both)
    assert bounds.nwj(s).terms.mean() == pytest.approx(
        (1 + own.mean() - negatives.exp().mean()).item()
    )
    assert bounds.dv(s).terms.mean() == pytest.approx(
        (own.mean() - negatives.exp().mean().log()).item()
    )
    clipped = negatives.clamp(-2, 2).exp().mean().log()
    assert bounds.smile(s, 2.0).terms.mean() == pytest.approx((own.mean() - clipped).item())
    assert bounds.club(s).terms.mean() == pytest.approx((own.mean() - negatives.mean()).item())
    assert bounds.leave_one_out(s).terms.mean() == pytest.approx(
        (own - negatives.logsumexp(1) + math.log(n - 1)).mean().item()
    )
    spared = (torch.arange(n) + 1) % n
    first = (f.exp().sum(1) - f[torch.arange(n), spared].exp()) / (
        n - 1
    )  # own pair and n - 2 negatives
    second = negatives.exp().mean(1)
    alpha = 1 + own - (a * first + 1 - a).log() - second / (a * second + 1 - a)
    torch.testing.assert_close(bounds.alpha_bound(s, a).terms, alpha)
    softplus = F.softplus
    assert bounds.js_objective(f) == pytest.approx(
        -softplus(-own).mean().item() - softplus(negatives).mean().item()
    )


def test_each_influence_is_the_derivative_by_a_pairs_weight():
    """Of the mean of terms, where pair j has the weight w_j as an anchor and as a candidate."""
    n, a = 30, 0.3
    f = torch.randn(n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    s, own, weights = scores.of_matrix(f), f.diagonal(), torch.ones(n, dtype=torch.float64)
    weights.requires_grad_()
    exp = f.exp().masked_fill(torch.eye(n, dtype=torch.bool), 0)
    # where both of alpha's expectations have the same mean, their constants are those of the terms
    second = exp @ weights / (n - 1)
    whole = exp @ weights + own.exp()
    found = {
        "infonce": (bounds.infonce(s), own - whole.log() + math.log(n)),
        "nwj": (bounds.nwj(s), 1 + own - second),
        "js": (bounds.js(s), 1 + own - second),
    }
    for name, (bound, terms) in found.items():
        torch.testing.assert_close(bound.terms, terms.detach(), msg=name)
        (slope,) = torch.autograd.grad((weights * terms).sum(), weights, retain_graph=True)
        shift = (bound.influence - slope).detach()  # a constant has no spread
        assert shift.std() < 1e-9, name
    spared = exp.detach()[torch.arange(n), (torch.arange(n) + 1) % n]
    first = (whole.detach() - spared) / (n - 1)
    mixed, mixed_second = a * first + 1 - a, a * second.detach() + 1 - a
    share = exp.detach() / (n - 1)
    expected = (
        bounds.alpha_bound(s, a).terms
        - a * (share / mixed[:, None]).sum(0)
        - (1 - a) * (share / mixed_second[:, None] ** 2).sum(0)
    )
    torch.testing.assert_close(bounds.alpha_bound(s, a).influence, expected)


@pytest.mark.parametrize(
    "information, d, expected",
    [
        (2.554, 5, (2.456, 2.522, 2.545)),
        (4.0, 20, (3.546, 3.801, 3.921)),
        (10.0, 20, (5.44, 6.64, 7.67)),
    ],
)
def test_the_optimal_critic_follows_known_values(information, d, expected):
    """Gaussians in d dimensions, C = 256, 1,024, 4,096, from independent blocks."""
    for c, value in zip((256, 1024, 4096), expected, strict=True):
        terms = torch.cat(
            [bounds.infonce(optimal(c, information, seed, d)).terms for seed in range(16384 // c)]
        )
        error = terms.std() / math.sqrt(len(terms))
        assert abs(terms.mean() - value) < 3 * error + 0.005  # the known values are rounded


@pytest.mark.parametrize("information", [0.0, 0.5, 2.0, 4.0, 10.0])
@pytest.mark.parametrize("name", LOWER)
def test_no_lower_bound_passes_the_truth(name, information):
    """With the optimal critic and with a wrong one, on fresh pairs."""
    for scale in (1.0, 0.6):
        pairs = gaussian_pairs(2048, 20, information, 11)
        found = interval(*LOWER[name](scores.paired(pairs.query, pairs.key, scale)))
        own = (
            pairs.pointwise.mean().item()
        )  # the sample's own information, which has the same error as the bound
        assert found.mean <= max(information, own) + 3 * found.error + 1e-9


def test_upper_bounds_stay_above_the_truth():
    for information in (0.5, 2.0, 4.0, 8.0):
        pairs = gaussian_pairs(2048, 8, information, 5)
        rho = math.sqrt(1 - math.exp(-2 * information / 8))
        density = scores.gaussian(
            rho * pairs.y, torch.full_like(pairs.y, math.sqrt(1 - rho**2)), pairs.x
        )
        for upper in (bounds.leave_one_out, bounds.club):
            found = interval(*upper(density))
            assert found.mean >= information - 3 * found.error
        assert (
            interval(*bounds.club(density)).mean > interval(*bounds.leave_one_out(density)).mean
        )  # by Jensen


def test_the_alpha_bound_passes_log_c():
    """I = 10, C = 1,024: about 6.6 for InfoNCE, 8.6 at alpha = .1, 9.4 at .01 (theory.md)."""
    means = []
    for alpha in (0.1, 0.01):
        values = torch.tensor(
            [
                bounds.alpha_bound(optimal(1024, 10.0, seed), alpha).terms.mean()
                for seed in range(10)
            ]
        )
        means.append(values.mean().item())
    assert means[0] == pytest.approx(8.59, abs=0.15)
    assert math.log(1024) < means[0] < means[1] < 10
    assert means[1] == pytest.approx(9.43, abs=0.2)


def test_alpha_lies_between_nwj_and_infonce():
    s = optimal(512, 2.0, 0)
    nwj, infonce = (bound(s).terms.mean().item() for bound in (bounds.nwj, bounds.infonce))
    assert bounds.alpha_bound(s, 1e-9).terms.mean() == pytest.approx(nwj, abs=1e-6)
    assert bounds.alpha_bound(s, 1 - 1e-9).terms.mean() == pytest.approx(
        infonce, abs=0.02
    )  # 511 candidates, not 512
    with pytest.raises(ValueError, match="alpha"):
        bounds.alpha_bound(s, 0.0)


def test_the_js_bound_includes_the_shift_by_one():
    """At I = 0 the ideal critic is V = 0, and the bound is 0. Without the shift it would be 0 -
    e^-1.
    """
    zero = scores.of_matrix(torch.zeros(50, 50))
    assert bounds.js(zero).terms.mean() == pytest.approx(0, abs=1e-12)
    assert (zero.own - (zero.shifted(-1).others - math.log(49)).exp()).mean() == pytest.approx(
        -math.exp(-1)
    )


def test_smile_is_no_bound():
    """Clipping lowers its second expectation, so at 10 nats it is far above the truth with the
    optimal critic.
    """
    found = interval(*bounds.smile(optimal(2048, 10.0, 0), 2.0))
    assert found.mean > 10 + 10 * found.error


def test_dv_on_few_pairs_is_biased_upwards():
    """The mean over many small samples is above the truth, so on a sample DV is not called a lower
    bound.
    """
    values = torch.tensor(
        [bounds.dv(optimal(12, 2.0, seed, d=2)).terms.mean() for seed in range(1500)]
    )
    error = values.std() / math.sqrt(len(values))
    assert values.mean() > 2.0 + 3 * error


@pytest.mark.parametrize(
    "name, information",
    [
        ("infonce", 2.0),
        ("symmetric", 2.0),
        ("infonce", 8.0),
        ("alpha", 2.0),
        ("nwj", 1.0),
        ("dv", 1.0),
    ],
)
def test_intervals_cover_the_bounds_own_mean(name, information):
    """95% intervals of 500 samples of 200 pairs, against the mean of all samples: neither too
    narrow nor too wide. NWJ and DV are tested only if e^I is not large: otherwise their tails are
    too heavy, and most samples do not contain the rare large values.
    """
    bound = LOWER.get(name, bounds.dv)
    found = [interval(*bound(optimal(200, information, seed))) for seed in range(500)]
    mean = sum(estimate.mean for estimate in found) / 500
    assert 460 <= sum(estimate.low <= mean <= estimate.high for estimate in found) <= 487


def test_a_critic_on_its_own_training_split_passes_the_truth():
    """Independent x and y: a critic fitted to 300 pairs finds nats on these, and none on others."""
    g = torch.Generator().manual_seed(0)
    x, y, fresh_x, fresh_y = (torch.randn(300, 10, generator=g) for _ in range(4))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        towers = [
            torch.nn.Sequential(torch.nn.Linear(10, 256), torch.nn.SiLU(), torch.nn.Linear(256, 64))
            for _ in range(2)
        ]
    optimizer = torch.optim.Adam([p for tower in towers for p in tower.parameters()], 3e-3)
    for _ in range(150):
        loss = F.cross_entropy(towers[0](x) @ towers[1](y).T, torch.arange(300))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        seen, held_out = (
            interval(*bounds.infonce(scores.paired(towers[0](a), towers[1](b))))
            for a, b in ((x, y), (fresh_x, fresh_y))
        )
    assert seen.low > 2
    assert held_out.high < 0


def test_an_interval_uses_terms_or_influence():
    terms = torch.tensor([1.0, 2.0, 3.0])
    assert interval(terms).error == pytest.approx(1 / math.sqrt(3))
    assert interval(*Bound(terms, 2 * terms)).error == pytest.approx(2 / math.sqrt(3))
    assert interval(torch.ones(1)).error == math.inf


@pytest.mark.parametrize("information", [3.0, 5.0, 8.0])
def test_the_unseen_part_tells_where_nwj_is_above_the_truth(information):
    """With the best critic. Negatives with the scores that make up the mean of e^f become too rare;
    the value is then too high by the part of the mean that they would give.
    """
    wrong = allowed = kept = 0
    for seed in range(100):
        s = optimal(300, information, seed, d=100)
        value, missing = interval(*bounds.nwj(s)), bounds.unseen([s])
        wrong += value.low > information
        kept += missing <= UNSEEN
        allowed += missing <= UNSEEN and value.low - missing > information
    assert allowed <= 5
    assert kept >= 90 if information == 3 else kept <= 60
    assert wrong > 15 if information == 8 else wrong <= 8


def test_the_unseen_part_is_a_share_of_pairs_and_pools_folds():
    f = torch.tensor([[5.0, 1.0, 0.0], [2.0, 3.0, 0.0], [4.0, 0.0, 1.0]])
    assert bounds.unseen([scores.of_matrix(f)]) == pytest.approx(1 / 3)
    assert bounds.unseen([scores.of_matrix(f), scores.of_matrix(f + 2)]) == pytest.approx(1 / 6)
    # only the own score 5 exceeds every negative; it would count m / (alpha e^f) of 1 / (alpha n)
    for alpha, count in ((0.9, 2 / (0.9 * math.e**5)), (1e-6, 1.0)):
        assert bounds.unseen([scores.of_matrix(f)], [alpha]) == pytest.approx(count / 3)


@pytest.mark.parametrize("sharpness", [1.0, 1.15])
@pytest.mark.parametrize("information", [10.0, 20.0])
def test_the_interval_of_the_alpha_bound_covers_its_mean_at_large_information(
    information, sharpness
):
    """With alpha = 10 / n and the allowance for what a sample can not show. A normal interval with
    a much smaller alpha fails. The mean is computed with own pairs in place of the rare negatives:

        E[ M' / (alpha M' + 1 - alpha) ] = E[ (e^f / r)(x, y) / (alpha M + 1 - alpha) ],
        r = p(y|x) / p(y)
    """
    n, draws, fine = 400, 100, 0.01 / 400
    found: dict[float, list[tuple[float, float, float]]] = {10 / n: [], fine: []}
    for seed in range(draws):
        pairs = gaussian_pairs(n, 100, information, seed)
        # the constant makes the mean of e^f 1
        constant = _log_mean(100, information, sharpness)
        s = scores.paired(sharpness * pairs.query, pairs.key).shifted(-constant)
        rare = (s.own - pairs.pointwise).exp()
        for alpha, results in found.items():
            mixed, _, _ = bounds._interpolated(s, alpha)
            mean = (1 + s.own - mixed - rare * (-mixed).exp()).mean().item()
            value = interval(*bounds.alpha_bound(s, alpha))
            low = value.low - bounds.unseen([s], [alpha]) if alpha > fine else value.low
            results.append((low, value.high, mean))
    covered = {}
    for alpha, results in found.items():
        low, high, means = torch.tensor(results).T
        covered[alpha] = int(((low <= means.mean()) & (means.mean() <= high)).sum())
        assert alpha == fine or low.max() < information
    assert covered[10 / n] >= 91
    assert sharpness > 1 or covered[fine] <= 85


def _log_mean(d: int, information: float, sharpness: float) -> float:
    """log E_p(x)p(y)[r^s] of Gaussian pairs with r = p(y|x) / p(y), by Gaussian integrals:

    d/2 times  -s log(1 - rho^2) - log((1 + q)^2 - p^2),  p = s rho / (1 - rho^2),  q = rho p
    """
    rho = correlation(information, d)
    p = sharpness * rho / (1 - rho**2)
    return d / 2 * (-sharpness * math.log(1 - rho**2) - math.log((1 + rho * p) ** 2 - p**2))


def test_smile_is_clipped_at_five_nats_unless_another_limit_is_given():
    """50 pairs whose scores have a deviation of 8 nats tell this limit from any other."""
    rng = torch.Generator().manual_seed(0)
    f = 8 * torch.randn(50, 50, generator=rng, dtype=torch.float64)
    clipped = f.clamp(-5, 5)[~torch.eye(50, dtype=torch.bool)]
    value = f.diagonal().mean() - clipped.exp().mean().log()
    found = bounds.smile(scores.of_matrix(f)).terms.mean()
    assert found.item() == pytest.approx(value.item(), abs=1e-9)
