"""Which data may choose a critic. Here the pairs of train, of the calibration split and of test
have different optimal critics, so the tests detect a choice on the wrong split.
"""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from core.adamw import AdamW
from core.errors import Unmeasurable
from core.frozen import Pairs
from core.information.bounds import Estimate, infonce_sweep, infonce_terms, interval
from probes.views import critic as module
from probes.views import information as views
from probes.views.critic import Critic, calibration_value, refit_scale, train_critic, train_critics
from probes.views.information import critics, surpassed
from probes.views.sweep import sweep_over


def pairs(n: int, noise: float, seed: int, d: int = 6) -> Pairs:
    """Views that agree up to noise; the best scale for their codes depends on the noise."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g)
    views = (x + noise * torch.randn(n, d, generator=g), x + noise * torch.randn(n, d, generator=g))
    return Pairs(views, tuple(F.normalize(view, dim=1) for view in views), torch.arange(n))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "CYCLES", (20, 40, 60))
    monkeypatch.setattr(module, "BATCH", 64)


def test_each_split_serves_only_its_own_purpose(quick):
    """The scale comes from val, the critic from train and val, and the values from test."""
    train, val = pairs(200, 0.2, 0), pairs(200, 0.6, 1)
    tests = [pairs(200, noise, seed) for noise, seed in ((0.2, 2), (1.5, 3))]
    found = [critics(train, val, test, 0.1) for test in tests]
    assert found[0] == critics(train, val, tests[0], 0.1)
    refitted, critic = (
        refit_scale(*val.codes, 10.0),
        train_critic(*train.features, *val.features, 0),
    )
    others = [refit_scale(*part.codes, 10.0) for part in (train, *tests)]
    assert all(abs(math.log(other / refitted)) > 0.1 for other in others)
    for made, test in zip(found, tests, strict=True):
        assert made["native"]["scale"] == 10.0
        assert made["native, refitted scale"]["scale"] == refitted
        assert made["common"]["scale"] == critic.scale
        with torch.no_grad():
            read = {
                "native": (test.codes, 10.0),
                "native, refitted scale": (test.codes, refitted),
                "common": ([critic(x) for x in test.features], critic.scale),
            }
        for name, (codes, scale) in read.items():
            rows = made[name]["sweep"]
            assert [row["K"] for row in rows] == [16, 32, 64, 128, 199]
            bounds = infonce_sweep(*codes, scale, [row["K"] + 1 for row in rows])
            for row, expected in zip(rows, (interval(*bound) for bound in bounds), strict=True):
                assert (row["bound"], row["low"], row["high"]) == pytest.approx(
                    (expected.mean, expected.low, expected.high), abs=1e-6
                )


def test_other_training_pairs_give_another_critic(quick):
    val = pairs(200, 0.4, 1)
    first, second = (
        train_critic(*pairs(200, 0.4, seed).features, *val.features, 0) for seed in (0, 5)
    )
    assert not torch.equal(first.skip.weight, second.skip.weight)
    mean = pairs(200, 0.4, 0).features[0].double().mean(0)
    torch.testing.assert_close(first.mean, mean)  # standardised by the training pairs


def test_the_best_cycle_is_the_one_that_calibration_pairs_prefer(quick, monkeypatch):
    """If pairs share no information, a critic memorises its training pairs: the first steps are the
    best for other pairs, and the last steps for the training pairs.
    """
    g = torch.Generator().manual_seed(0)
    train, val = ([torch.randn(96, 8, generator=g) for _ in range(2)] for _ in range(2))
    seen = []

    def watched(critic, first, second):
        assert first is val[0] and second is val[1]
        assert critic.training
        seen.append(calibration_value(critic, first, second))
        assert critic.training
        return seen[-1]

    monkeypatch.setattr(module, "calibration_value", watched)
    critic = train_critic(*train, *val, 0)
    assert not critic.training and not any(p.requires_grad for p in critic.parameters())
    means = [value.mean for value in seen]
    assert len(seen) == 2  # nothing is learned, and half of the steps are done
    assert calibration_value(critic, *val).mean == max(means) > means[-1]
    assert calibration_value(critic, *train).mean > calibration_value(critic, *val).mean + 0.5


@pytest.mark.parametrize(
    "values, cycles",
    [
        ([4.0, 4.004], 2),  # gains less than a quarter of the interval's half-width
        ([4.0, 3.9], 2),
        ([4.0, 4.1, 4.2], 3),
        ([0.0, 0.0, 0.0], 3),  # may not have begun to learn: half of the steps are not done
        ([0.0, 0.05, 3.0], 3),
    ],
)
def test_training_ends_when_more_steps_are_not_worth_their_time(values, cycles, monkeypatch):
    monkeypatch.setattr(module, "CYCLES", (2, 3, 9))
    found = [Estimate(value, 0.01, value - 0.02, value + 0.02) for value in values]
    states = []

    def given(critic, *parts):
        states.append(critic.skip.weight.clone())
        return found[len(states) - 1]

    monkeypatch.setattr(module, "calibration_value", given)
    critic = train_critic(*pairs(60, 0.3, 0).features, *pairs(60, 0.3, 1).features, 0)
    assert len(states) == cycles
    assert torch.equal(critic.skip.weight, states[values.index(max(values[:cycles]))])


@pytest.mark.parametrize("overfit, cycles", [(0.05, 3), (0.15, 2), (5.0, 2)])
def test_training_ends_when_a_cycle_overfits_more_than_it_gains(overfit, cycles, monkeypatch):
    monkeypatch.setattr(module, "CYCLES", (2, 3, 9))
    seen = iter([4.0, 4.1, 4.2])

    def given(critic, *parts):
        value = next(seen)
        return Estimate(value, 0.01, value - 0.02, value + 0.02)

    monkeypatch.setattr(module, "calibration_value", given)
    monkeypatch.setattr(module, "overfitting", lambda *parts: overfit)
    train_critic(*pairs(60, 0.3, 0).features, *pairs(60, 0.3, 1).features, 0)
    assert len(list(seen)) == 3 - cycles


@pytest.mark.parametrize("whole, cycles", [(4.05, 2), (4.5, 4)])
def test_the_first_cycles_of_both_critics_show_whether_to_go_on(whole, cycles, monkeypatch):
    """`whole` - 4.0 is gained by twice the pairs; the half overfits by 0.1."""
    monkeypatch.setattr(module, "CYCLES", (2, 4))
    values, seen = {1: 4.0, 2: whole}, []

    def given(critic, *parts):
        seen.append(values.get(len(seen) + 1, 3.0))
        return Estimate(seen[-1], 0.01, seen[-1] - 0.02, seen[-1] + 0.02)

    monkeypatch.setattr(module, "calibration_value", given)
    monkeypatch.setattr(module, "overfitting", lambda *parts: 0.1)
    train_critics(pairs(60, 0.3, 0).features, pairs(60, 0.3, 1).features, 0)
    assert len(seen) == cycles


def test_both_critics_are_those_that_are_trained_alone(quick):
    train, val = pairs(400, 0.3, 0).features, pairs(200, 0.3, 1).features
    for share, critic in zip((1, 2), train_critics(train, val, 0), strict=True):
        alone = train_critic(*train, *val, 0, share)
        for one, other in zip(critic.parameters(), alone.parameters(), strict=True):
            assert torch.equal(one, other)


def test_adamw_takes_the_steps_of_torch():
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn(5, 3, generator=generator), torch.tensor(1.5), torch.ones(2)]
    theirs = [x.clone().requires_grad_() for x in ours]
    ours = [x.requires_grad_() for x in ours]
    reference = torch.optim.AdamW(theirs, lr=1.0, weight_decay=1e-2)
    optimizer = AdamW(ours, weight_decay=1e-2)
    for number in range(20):
        reference.param_groups[0]["lr"] = 1e-3 * (number + 1)
        for parameters, one in ((ours, optimizer), (theirs, reference)):
            one.zero_grad()
            (parameters[0].sin().sum() * parameters[1]).backward()  # the last one has no gradient
        optimizer.step(1e-3 * (number + 1))
        reference.step()
    assert all(map(torch.equal, ours, theirs))


def test_half_of_the_pairs_shows_whether_more_would_help(quick):
    """In many dimensions, a critic of few pairs overfits, so that the second half brings much; with
    two plain dimensions and many pairs it brings little.
    """
    few = [pairs(n, 0.5, seed, d=40) for n, seed in ((160, 0), (400, 1), (400, 2))]
    many = [pairs(n, 0.7, seed, d=2) for n, seed in ((3000, 0), (2000, 1), (2000, 2))]
    found = [critics(*parts)["common"] for parts in (few, many)]
    gains = [one["doubling"]["gain"] for one in found]
    assert gains[0] > 0.1 > 0.05 > abs(gains[1])
    assert found[0]["doubling"]["extrapolated"] == pytest.approx(
        found[0]["sweep"][-1]["bound"] + gains[0]
    )
    half = train_critic(*many[0].features, *many[1].features, 0, share=2)
    expected = many[0].features[0][::2].double().mean(0)
    torch.testing.assert_close(half.mean, expected)


def test_every_fitted_critic_has_a_certificate_below_its_value(quick):
    train, val, test = (pairs(n, 0.3, seed) for n, seed in ((300, 0), (600, 1), (900, 2)))
    found = critics(train, val, test, 0.1)
    assert "certificate" not in found["native"]
    for name in ("native, refitted scale", "common"):
        proof = found[name]["certificate"]
        assert proof["low"] < proof["point"] and proof["confidence"] == 0.99
        assert proof["blocks"] * proof["candidates"] <= 900
        assert "certificate: ≥" in views._sentence(name, found[name])
    small = views.critics(*(pairs(12, 0.3, seed) for seed in (0, 1, 2)))["common"]
    assert "12 pairs are too few" in small["no_certificate"]
    limited = found["common"] | {"verdict": "data-limited"}
    assert "extrapolated in 1/n" in views._sentence("common", limited)


def test_the_scale_of_a_critic_ends_at_200():
    critic = Critic(torch.randn(9, 4))
    for log_scale, expected in ((0.0, 1.0), (math.log(199), 199.0), (math.log(1000), 200.0)):
        with torch.no_grad():
            critic.log_scale.fill_(log_scale)
        assert critic.scale == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "noise, start, end", [(0.02, 1.0, math.exp(3)), (3.0, 1e3, 1e3 / math.exp(3))]
)
def test_a_scale_is_sought_within_three_e_folds(noise, start, end):
    """If the best scale lies outside of this range, the end of the range is found."""
    codes = pairs(300, noise, 0).codes
    assert refit_scale(*codes, start) == pytest.approx(end, rel=0.01)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", range(4))
def test_features_that_are_not_finite_make_no_critic(bad, place):
    parts = [*pairs(60, 0.3, 0).features, *pairs(60, 0.3, 1).features]
    parts[place] = parts[place].clone()
    parts[place][3, 2] = bad
    with pytest.raises(Unmeasurable, match="^critic, (training|calibration) images: .* 1 of 60"):
        train_critic(*parts, 0)
    for codes in ((parts[place], parts[place]), (torch.ones(60, 6), parts[place])):
        with pytest.raises(Unmeasurable, match="^scale"):
            refit_scale(*codes, 10.0)


@pytest.mark.parametrize("start", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_without_a_scale_is_refused(start):
    with pytest.raises(Unmeasurable, match="^scale"):
        refit_scale(*pairs(60, 0.3, 0).codes, start)


def test_too_few_pairs_and_values_that_are_never_finite_are_refused(quick, monkeypatch):
    many, one = pairs(60, 0.3, 0).features, pairs(1, 0.3, 0).features
    for parts in ((*many, *one), (*one, *many)):
        with pytest.raises(Unmeasurable, match="two (training|calibration) images or more, got 1"):
            train_critic(*parts, 0)
    monkeypatch.setattr(module, "calibration_value", lambda *parts: Estimate(*4 * [math.nan]))
    with pytest.raises(Unmeasurable, match="never a finite number"):
        train_critic(*many, *many, 0)


@pytest.mark.parametrize("end", ["low", "high"])
def test_a_nan_bound_can_not_compare_critics(end):
    found = {
        name: {"verdict": "converged", "sweep": [{"low": value - 0.1, "high": value + 0.1}]}
        for name, value in (("native", 2.0), ("common", 4.0))
    }
    found["common"]["sweep"][0][end] = math.nan
    with pytest.raises(Unmeasurable, match="can not be compared"):
        surpassed(found)


def test_train_fits_val_chooses_and_test_is_reported(monkeypatch):
    """Every row of a split contains the split's number; a copy in test is left out."""
    numbers = {"train": 1.0, "val": 2.0, "test": 3.0}

    def read(split: str, most: int | None = None) -> Pairs:
        rows = torch.full((50, 4), numbers[split])
        return Pairs((rows, rows), (rows, rows), torch.arange(50))

    seen = []
    monkeypatch.setattr(views, "duplicates", lambda source, device: torch.tensor([7, 9]))
    monkeypatch.setattr(views, "critics", lambda *parts: seen.extend(parts) or {})
    frozen = SimpleNamespace(
        method=None,
        source=str,
        pairs=read,
        device="cpu",
        seed=0,
        truth=None,
        augmentation="none",
        has_images=True,
    )
    found = views.information(frozen)
    assert found["split"] == "test" and found["images"] == 48 and found["copies_left_out"] == 2
    for part, split in zip(seen, numbers, strict=False):
        for rows in (*part.features, *part.codes):
            assert (rows == numbers[split]).all(), split
    assert sorted(seen[2].place.tolist()) == [i for i in range(50) if i not in (7, 9)]


def test_a_certificate_is_of_test_and_chosen_on_val(quick, monkeypatch):
    asked = []
    monkeypatch.setattr(views, "certified", lambda *given: asked.append(given) or {})
    train, val, test = (pairs(200, 0.4, seed) for seed in range(3))
    critics(train, val, test, 0.1)
    assert len(asked) == 2
    assert all(mine is own for mine, own in zip(asked[0][0], test.codes, strict=True))
    assert all(mine is own for mine, own in zip(asked[0][1], val.codes, strict=True))


def test_splits_of_different_sizes_are_compared_at_one_number_of_candidates(monkeypatch):
    """The bound on 40 calibration pairs is that at C = 33. What more candidates bring on test is
    added, so a small calibration split is no sign of a weak critic.
    """
    seen, rng = [], torch.Generator().manual_seed(0)
    monkeypatch.setattr("probes.views.sweep.verdict", lambda *words: seen.append(words) or "x")
    codes = [F.normalize(torch.randn(n, 4, generator=rng), dim=1) for n in (100, 100, 40, 40)]
    found = sweep_over(codes[0], codes[1], 3.0, (codes[2], codes[3]))
    assert [c for c, _ in found.bounds] == [17, 33, 65, 100]
    at = {c: estimate.mean for c, estimate in found.bounds}
    own = infonce_terms(codes[2], codes[3], 3.0, [33]).mean().item()
    assert seen[0][2] == pytest.approx(at[100] + own - at[33])
    sweep_over(codes[0], codes[1], 3.0, (codes[2][:10], codes[3][:10]))
    assert seen[1][2] is None  # too few for the least number of candidates


def four_contents(n: int, seed: int, noise: float = 0.02) -> Pairs:
    """Pairs that share one of 4 equally likely contents, I = log 4. The features keep the content
    in small values beside large ones that all images share, so cosines hardly show it.
    """
    g = torch.Generator().manual_seed(seed)
    content = F.one_hot(torch.randint(4, (n,), generator=g), 4).float()

    def view() -> torch.Tensor:
        shown = 0.1 * content + noise * torch.randn(n, 4, generator=g)
        return torch.cat([shown, torch.ones(n, 2)], 1)

    views = (view(), view())
    return Pairs(views, tuple(F.normalize(x, dim=1) for x in views), torch.arange(n))


@pytest.mark.parametrize("n", [64, 256, 2000])
def test_a_critic_that_no_trained_critic_confirms_has_not_converged(n):
    """The truth is log 4 = 1.39 nats; with few training pairs, the common critic fails, too."""
    found = critics(*(four_contents(n, seed) for seed in range(3)), 0.1)
    for name in ("native", "native, refitted scale"):
        assert found[name]["sweep"][-1]["high"] < 0.75
        assert found[name]["verdict"] == "critic-limited", found["common"]["verdict"]


def test_a_fixed_critic_at_the_truth_has_converged():
    """The codes of this encoder hold only the content, and read what the trained critic reads."""
    parts = [four_contents(3000, seed, 0.003) for seed in range(3)]
    sharp = [p._replace(codes=tuple(F.normalize(x[:, :4], dim=1) for x in p.codes)) for p in parts]
    found = critics(*sharp, 0.1)
    assert found["common"]["verdict"] == "converged"
    for name in ("native", "native, refitted scale"):
        assert found[name]["verdict"] == "converged"
        assert found[name]["sweep"][-1]["bound"] > 1.3


@pytest.mark.parametrize("n, first", [(128, 10), (256, 0), (256, 10)])
def test_a_common_critic_that_knows_its_training_pairs_is_data_limited(n, first):
    """Its bound is 0.5 to 1.3 of 1.39 nats; half of the pairs gave no less."""
    found = critics(*(four_contents(n, first + seed) for seed in range(3)), 0.1)["common"]
    assert found["verdict"] == "data-limited" and found["overfit"] > 0.3
    assert "on its training pairs" in views._sentence("common", found)


@pytest.mark.parametrize(
    "low, high, trained, expected",
    [
        (1.30, 1.34, "converged", "converged"),
        (1.00, 1.60, "converged", "critic-limited"),
        (1.30, 1.34, "data-limited", "critic-limited"),
        (-0.5, -0.3, "critic-limited", "critic-limited"),
        (1.30, 1.34, "K-limited", "critic-limited"),
    ],
)
def test_the_trained_critic_must_have_converged_at_no_more(low, high, trained, expected):
    found = {
        "native": {"verdict": "converged", "sweep": [{"low": 1.28, "high": 1.32}]},
        "common": {"verdict": trained, "sweep": [{"low": low, "high": high}]},
    }
    surpassed(found)
    assert found["native"]["verdict"] == expected


def test_a_small_bound_below_a_larger_small_one_is_limited():
    """0.02 and 0.09 nats differ by less than 0.1, but by most of the larger."""
    found = {
        "native": {"verdict": "converged", "sweep": [{"low": 0.01, "high": 0.03}]},
        "common": {"verdict": "converged", "sweep": [{"low": 0.08, "high": 0.10}]},
    }
    surpassed(found)
    assert found["native"]["verdict"] == "critic-limited"
