"""What cross-fitting chooses for the bounds: alpha, and the constant of a critic."""

import math

import numpy as np
import pytest
import torch

from core.information import bounds, scores
from core.information.bounds import Estimate
from probes.samples import crossfit, panel
from probes.samples.centring import centred, centring
from probes.samples.estimate import _doubling
from tests.sources import gaussian_pairs


def test_an_anchor_takes_at_most_a_tenth_of_a_nat_from_the_alpha_bound():
    for pairs in (50, 300, 5000, 50_000, 10**6):
        assert 1 / (crossfit.choices(pairs)[0] * pairs) == pytest.approx(0.1, rel=0.05)
        assert (
            list(crossfit.choices(pairs)) == sorted(crossfit.choices(pairs))
            and crossfit.choices(pairs)[-1] == 0.9
        )
    assert crossfit.choices(5000) == (0.002, 0.01, 0.1, 0.5, 0.9)


def test_alpha_of_a_fold_does_not_depend_on_its_pairs(monkeypatch):
    monkeypatch.setattr(panel, "LEAST_STEPS", 1)
    made = gaussian_pairs(100, 1, 1.0, 0)
    x, y = made.x.numpy(), made.y.numpy()
    first = np.array_split(np.random.default_rng(0).permutation(100), crossfit.FOLDS)[0]
    other = y.copy()
    other[first] = other[first[::-1]] + 7
    seen: list[list[torch.Tensor]] = []

    def best(judged, alphas):
        seen.append([part.own for part in judged])
        return alphas[len(seen) % 2]

    monkeypatch.setattr(crossfit, "best_alpha", best)
    fits = crossfit.cross_fit(x, y), crossfit.cross_fit(x, other)
    assert [len(parts) for parts in seen] == [4] * 10  # 20 critics, of which 4 score the fold
    assert all(map(torch.equal, seen[0], seen[5]))
    assert not any(map(torch.equal, seen[1], seen[6]))
    assert fits[0].alphas == [0.5, 0.1, 0.5, 0.1, 0.5]


def test_the_constant_is_found_where_few_pairs_show_the_mean():
    """Best critics plus 2.5; at 15 nats, the mean of e^f over these negatives is far too small."""
    for information in (0.0, 1.0, 15.0):
        made = gaussian_pairs(1000, 100, information, 0)
        query = torch.cat([made.query, torch.full((1000, 1), 2.5)], 1)
        found = centring(query, torch.cat([made.key, torch.ones(1000, 1)], 1))
        assert found == pytest.approx(2.5, abs=0.4 if information > 10 else 0.05)


def test_nine_negatives_with_too_large_scores_do_not_move_the_constant():
    """All scores are 2, but nine of the 380 negatives have 50: their e^f is left out of the mean,
    and c = log(371 / 380 e^2).
    """
    scored = torch.full((20, 20), 2.0)
    scored[0, 1:10] = 50.0
    found = centring(scored, torch.eye(20))
    assert found == pytest.approx(2 + math.log(371 / 380), abs=1e-5)


def test_a_function_of_the_content_is_taken_from_a_critic():
    """Two contents and f = log 2 + a(content) for pairs of one content, else -20. Symmetric InfoNCE
    is the same for all a. NWJ is log 2 for a = 0 only.
    """
    random = np.random.default_rng(0)
    parts = []
    for pairs in (800, 500):
        content = torch.from_numpy(np.eye(2, dtype=np.float32)[random.integers(2, size=pairs)])
        shift = torch.tensor([[math.log(2) + 1.5, -20.0], [-20.0, math.log(2) - 1.5]])
        parts.append((content @ shift, content))
    chosen, scored = centred(*parts)
    plain = [bounds.infonce_symmetric(scores.paired(*codes)).terms for codes in (parts[1], scored)]
    assert torch.allclose(*plain, atol=1e-5)
    for codes in (chosen, scored):
        assert bounds.nwj(scores.paired(*codes)).terms.mean() == pytest.approx(
            math.log(2), abs=0.02
        )
    constant = parts[1][0] - centring(*parts[0]) * torch.ones(1, 2)
    assert bounds.nwj(scores.paired(constant, parts[1][1])).terms.mean() < 0.4


@pytest.mark.parametrize("information", [0.0, 2.0, 15.0])
def test_a_critic_that_is_a_log_density_ratio_gets_a_constant_only(information):
    made = [gaussian_pairs(1000, 20, information, seed) for seed in (0, 1)]
    chosen, other = ((pairs.query.float(), pairs.key.float()) for pairs in made)
    query, key = centred(chosen, other)[1]
    moved = query @ key.T - other[0] @ other[1].T
    assert moved.std() < 1e-3


@pytest.mark.parametrize(("gain", "more"), [(0.3, 0.3), (0.0, 0.0), (-0.2, 0.0)])
def test_more_pairs_are_never_expected_to_lower_the_value(gain, more):
    bound = Estimate(1.5, 0.1, 1.3, 1.7)
    found = _doubling(Estimate(gain, 0.1, gain - 0.2, gain + 0.2), bound)
    assert found["extrapolated"] == pytest.approx(1.5 + more) and found["gain"] == gain
    assert (found["low"], found["high"]) == (gain - 0.2, gain + 0.2)
