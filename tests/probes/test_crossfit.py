"""What cross-fitting chooses for the bounds: alpha, and the constant of a critic."""

import pytest
import torch

from probes.samples import crossfit, panel
from tests.sources import gaussian_pairs


def test_an_anchor_takes_at_most_a_tenth_of_a_nat_from_the_alpha_bound():
    for pairs in (50, 300, 5000, 50_000, 10**6):
        assert 1 / (crossfit.choices(pairs)[0] * pairs) == pytest.approx(0.1, rel=0.05)
        assert (
            list(crossfit.choices(pairs)) == sorted(crossfit.choices(pairs))
            and crossfit.choices(pairs)[-1] == 0.9
        )
    assert crossfit.choices(5000) == (0.002, 0.01, 0.1, 0.5, 0.9)


def test_alpha_of_a_fold_is_chosen_on_the_other_folds(monkeypatch):
    seen: list[int] = []

    def best(judged, alphas):
        seen.append(len(judged))
        return alphas[len(seen) % 2]

    monkeypatch.setattr(crossfit, "best_alpha", best)
    monkeypatch.setattr(panel, "LEAST_STEPS", 1)
    made = gaussian_pairs(100, 1, 1.0, 0)
    fit = crossfit.cross_fit(made.x.numpy(), made.y.numpy())
    assert seen == [16] * 5  # 20 critics, of which 4 were chosen on the fold
    assert fit.alphas == [0.5, 0.1, 0.5, 0.1, 0.5]


def test_the_constant_is_found_where_few_pairs_show_the_mean():
    """Best critics plus 2.5; at 15 nats, the mean of e^f over these negatives is far too small."""
    for information in (0.0, 1.0, 15.0):
        made = gaussian_pairs(1000, 100, information, 0)
        query = torch.cat([made.query, torch.full((1000, 1), 2.5)], 1)
        found = crossfit._offset(query, torch.cat([made.key, torch.ones(1000, 1)], 1))
        assert found == pytest.approx(2.5, abs=0.4 if information > 10 else 0.05)
