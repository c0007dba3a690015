"""The certificate: a lower limit that holds in (nearly) all draws, whatever the distribution."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import Unmeasurable
from core.information.bounds import infonce_symmetric
from core.information.certificate import (
    block_values,
    certificate,
    choose,
    lower_limit,
    score_range,
    value_range,
)
from core.information.scores import of_matrix

LETTERS = 64
CODE = F.normalize(torch.randn(LETTERS, 16, generator=torch.Generator().manual_seed(5)), dim=1)


def channel(n: int, error: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Codes of a letter and of what a symmetric channel makes of it."""
    sent = torch.randint(LETTERS, (n,), generator=random)
    other = (sent + torch.randint(1, LETTERS, (n,), generator=random)) % LETTERS
    return CODE[sent], CODE[torch.where(torch.rand(n, generator=random) < error, other, sent)]


def information(error: float) -> float:
    """log M - h(e) - e log(M - 1), nats."""
    parts = [p * math.log(p * LETTERS) for p in (1 - error,) if p]
    return sum(parts) + (error * math.log(error * LETTERS / (LETTERS - 1)) if error else 0.0)


@pytest.mark.parametrize("error", [0.0, 0.3, 1 - 1 / LETTERS])  # 4.16, 2.30 and 0 nats
def test_the_limit_holds_in_a_thousand_draws(error):
    random, n, scale, truth = torch.Generator().manual_seed(1), 1024, 8.0, information(error)
    chosen = choose(*channel(n, error, random), scale, n, 0.01)
    spread = value_range(chosen.candidates, score_range(scale, chosen.floor))
    values = block_values(
        *channel(1000 * n, error, random), scale, chosen.candidates, chosen.floor
    ).view(1000, -1)
    limits = [lower_limit(draw, *spread, 0.01, chosen.variance) for draw in values]
    assert max(limits) <= truth
    missed = sum(limit > values.mean().item() for limit in limits)
    assert missed <= 20  # 10 are allowed on average for the mean of the bound itself


@pytest.mark.parametrize("rate", [0.003, 0.05, 0.5])
def test_rare_values_that_no_sample_shows_do_not_break_the_limit(rate):
    """A value of 1 with a small probability: a normal interval fails in most draws."""
    random = torch.Generator().manual_seed(0)
    draws = (torch.rand(1000, 100, generator=random) < rate).double()
    above = sum(lower_limit(draw, 0.0, 1.0, 0.01) > rate for draw in draws)
    mirrored = sum(lower_limit(1 - draw, 0.0, 1.0, 0.01) > 1 - rate for draw in draws)
    assert above <= 20 and mirrored <= 20
    normal = [(1 - d).mean() - 2.33 * (1 - d).std() / 10 for d in draws]
    if rate == 0.003:
        assert sum(limit > 1 - rate for limit in normal) > 500


def test_ten_thousand_pairs_are_within_three_tenths_of_a_nat():
    random = torch.Generator().manual_seed(2)
    chosen_on, codes = channel(5000, 0.05, random), channel(10_000, 0.05, random)
    found = certificate(codes, chosen_on, 10.0)
    assert found.point - 0.35 < found.low < found.point and found.confidence == 0.99
    at_32 = block_values(*codes, 10.0, 32, 5.0)
    spread = value_range(32, score_range(10.0, 5.0))
    low = lower_limit(at_32, *spread, 0.01, at_32.var().item())
    assert at_32.mean().item() - 0.3 < low <= found.low + 1e-9


def test_candidates_floor_and_bets_come_from_the_other_pairs_alone():
    random, n, scale = torch.Generator().manual_seed(3), 2048, 4.0
    chosen_on, codes = channel(n, 0.95, random), channel(n, 0.5, random)
    chosen, wrong = (choose(*pairs, scale, n, 0.01) for pairs in (chosen_on, codes))
    assert chosen.candidates != wrong.candidates
    found = certificate(codes, chosen_on, scale)
    assert (found.candidates, found.floor) == (chosen.candidates, chosen.floor)
    values = block_values(*codes, scale, chosen.candidates, chosen.floor)
    spread = value_range(chosen.candidates, score_range(scale, chosen.floor))
    limit = lower_limit(values, *spread, 0.01, chosen.variance)
    assert found.low == limit != lower_limit(values, *spread, 0.01, values.var().item())


def test_blocks_are_infonce_and_within_their_range():
    query, key = (F.normalize(torch.randn(70, 5).double(), dim=1) for _ in range(2))
    values = block_values(query, key, 3.0, 16, -1.0)
    assert len(values) == 4
    for number, value in enumerate(values):
        rows = slice(16 * number, 16 * number + 16)
        scores = torch.log((3.0 * query[rows] @ key[rows].T).exp() + math.exp(-1))
        assert value.item() == pytest.approx(infonce_symmetric(of_matrix(scores)).terms.mean())
    low, high = value_range(2, score_range(3.0, -1.0))
    for mine, others in ((3.0, -3.0), (-3.0, 3.0)):  # the best and the worst block of two
        q, k = torch.eye(2), torch.eye(2) * mine / 3 + (1 - torch.eye(2)) * others / 3
        extreme = block_values(q, k, 3.0, 2, -1.0).item()
        assert extreme == pytest.approx(high if mine > 0 else low, abs=1e-6)


def test_codes_without_a_bounded_score_have_no_certificate():
    unit = F.normalize(torch.randn(100, 4), dim=1)
    for bad in (2 * unit, torch.full((100, 4), math.nan)):
        with pytest.raises(Unmeasurable, match="length 1"):
            certificate((unit, bad), (unit, unit), 5.0)
    with pytest.raises(Unmeasurable, match="15 pairs are too few"):
        certificate((unit[:15], unit[:15]), (unit, unit), 5.0)


def test_the_first_bet_depends_on_the_guess_and_not_on_the_value():
    """One value 1 in [0, 1], a guessed variance of 1: the capital 1 + bet (1 - m) reaches 1 / delta
    at m = 1 - (1 / delta - 1) / bet, with bet = sqrt(2 log(1 / delta)).
    """
    delta = 0.9
    expected = 1 - (1 / delta - 1) / math.sqrt(2 * math.log(1 / delta))
    found = lower_limit(torch.ones(1), 0.0, 1.0, delta, 1.0)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("pairs", [32, 64, 400])
def test_a_choice_is_made_for_as_many_values_as_will_be_reported(pairs, monkeypatch):
    """With more pairs, larger blocks are affordable; the blocks at hand are repeated for this."""
    seen, real = [], lower_limit

    def recorded(values, *rest):
        seen.append(values)
        return real(values, *rest)

    monkeypatch.setattr("core.information.certificate.lower_limit", recorded)
    codes = channel(64, 0.3, torch.Generator().manual_seed(3))
    choose(*codes, 8.0, pairs, 0.01)
    most = min(64, pairs) // 8
    sizes = [c for c in (2, 4, 8) if c <= most]
    assert len(seen) == 4 * len(sizes)  # floors
    for number, values in enumerate(seen):
        c = sizes[number // 4]
        assert len(values) == pairs // c
        assert torch.equal(values[64 // c :], values[: max(0, len(values) - 64 // c)])
