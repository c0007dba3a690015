"""Schedules for the price of the rate: each reaches its target on a linear VAE of Gaussian data,
which trains in a second.
"""

import math

import pytest
import torch

from core.batch import Batch
from core.errors import UserError
from core.randomness import KeyedRNG
from core.run.optim import warmup_cosine
from vae.beta import BetaVAE, BetaVAEConfig
from vae.rate import RateConfig, RateSchedule

SHAPE, LATENT, SIGMA = (1, 4, 4), 8, 0.3
MIXING = KeyedRNG(1, 0).normal("mixing", 16, LATENT) * torch.linspace(1.5, 0.3, LATENT)


def linear_vae(rate: RateConfig) -> BetaVAE:
    torch.manual_seed(0)
    settings = BetaVAEConfig(
        backbone="linear",
        decoder="linear",
        latent=LATENT,
        likelihood="normal",
        sigma=SIGMA,
        rate=rate,
    )
    return BetaVAE(settings, SHAPE)


def batch(step: int, size: int = 128) -> Batch:
    rng = KeyedRNG(0, step)
    x = rng.normal("z", size, LATENT) @ MIXING.T + SIGMA * rng.normal("noise", size, 16)
    return Batch((x.view(size, *SHAPE),), torch.zeros(size, 1).long(), torch.arange(size), rng)


def trained(
    rate: RateConfig, steps: int = 800, lr: float = 0.02
) -> tuple[dict[str, float], list[float]]:
    """R and D of a trained linear VAE on 16,384 fresh images, and the price at every step."""
    method = linear_vae(rate)
    optimizer, prices = torch.optim.Adam(method.parameters(), lr=lr), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * warmup_cosine(step, 0.05 * steps, steps)
        loss, metrics = method(batch(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step((step + 1) / steps)
        prices.append(metrics["price"].item())
    method.eval()
    with torch.no_grad():
        found = method(batch(10**6, 16_384)).metrics
    return {name: value.item() for name, value in found.items()}, prices


def prices(config: RateConfig, at: list[float]) -> list[float]:
    schedule = RateSchedule(config, 4)
    found = []
    for progress in at:
        schedule.after_step(progress)
        found.append(schedule.price.item())
    return found


def test_linear_annealing_rises_over_its_warmup_and_then_stays():
    schedule = RateSchedule(RateConfig("linear", beta=4.0, warmup=0.5), 4)
    assert schedule.price == 0
    assert prices(schedule.config, [0.25, 0.5, 0.9]) == [2, 4, 4]
    assert prices(RateConfig("linear", beta=4.0, warmup=0.0), [0.1]) == [4]


def test_cyclical_annealing_follows_its_paper():
    """tau = mod(t - 1, T / M) / (T / M) and beta = min(1, tau / ramp), with t - 1 of T steps done
    (Fu et al. 2019, equations 6 and 7).
    """
    total, cycles, ramp = 200, 4, 0.5
    expected = [
        min(1.0, (done % (total / cycles)) / (total / cycles) / ramp) * 2.0
        for done in range(1, total)
    ]
    found = prices(
        RateConfig("cyclical", beta=2.0, cycles=cycles, ramp=ramp),
        [done / total for done in range(1, total)],
    )
    assert found == pytest.approx(expected, abs=1e-6)
    assert min(found) == 0 and max(found) == 2


def test_the_price_that_is_logged_is_the_one_of_the_objective():
    method = linear_vae(RateConfig("linear", beta=3.0, warmup=1.0))
    for progress in (0.0, 0.3, 0.7):
        method.after_step(progress)
        loss, metrics = method(batch(0))
        assert metrics["price"].item() == pytest.approx(3 * progress, abs=1e-6)
        torch.testing.assert_close(loss, metrics["distortion"] + 3 * progress * metrics["rate"])
        torch.testing.assert_close(metrics["nelbo"], metrics["distortion"] + metrics["rate"])


@pytest.mark.parametrize(
    "group, columns",
    [
        (1, [[3, 1], [0, 2], [5, 1], [1, 1]]),
        (2, [[3, 0, 5, 1], [1, 2, 1, 1]]),
        (0, [[3, 0, 5, 1, 1, 2, 1, 1]]),
    ],
)
def test_free_bits_charge_each_group_no_less_than_its_share(group, columns):
    """For the batch mean, not for each image: sum_g max(lambda, E_x KL_g)."""
    rate = torch.tensor([[3.0, 0.0, 5.0, 1.0], [1.0, 2.0, 1.0, 1.0]], requires_grad=True)
    schedule = RateSchedule(RateConfig("free_bits", nats=2.5, group=group, beta=2.0), 4)
    groups = rate.detach().numpy().mean(0).reshape(-1, group or 4).sum(1)
    loss = schedule(rate, torch.tensor([10.0, 20.0]))
    assert loss.item() == pytest.approx(15 + 2 * sum(max(2.5, float(r)) for r in groups))
    loss.backward()
    assert ((rate.grad != 0).any(0).numpy() == (groups > 2.5).repeat(group or 4)).all(), (
        "free nats have no gradient"
    )


def test_free_bits_keep_more_nats_than_the_same_price_without_them():
    without, _ = trained(RateConfig(beta=20.0))
    kept, _ = trained(RateConfig("free_bits", beta=20.0, nats=1.0))
    assert without["rate"] < 6
    assert (
        kept["rate"] == pytest.approx(LATENT, rel=0.05) and kept["informative_dimensions"] == LATENT
    )


def test_soft_free_bits_change_by_a_tenth_if_the_rate_is_five_percent_off():
    schedule = RateSchedule(RateConfig("soft_free_bits", nats=10.0), 2)
    expected = 1.0
    for r, factor in ((10.4, 1.0), (12.0, 1.1), (9.6, 1.0), (8.0, 1 / 1.1)):
        schedule.average.fill_(r)
        for _ in range(10):
            schedule(torch.full((3, 2), r / 2), torch.zeros(3))
            schedule.after_step(0.5)
        expected *= factor
        assert schedule.price.item() == pytest.approx(expected, rel=1e-5)


def test_soft_free_bits_end_at_their_rate():
    found, seen = trained(RateConfig("soft_free_bits", nats=12.0))
    assert found["rate"] == pytest.approx(12.0, rel=0.07)
    assert seen[-1] > 2, "at price 1 the rate is different"


def test_the_capacity_rises_linearly_and_is_charged_on_both_sides():
    schedule = RateSchedule(RateConfig("capacity", nats=8.0, gamma=5.0, warmup=0.5), 1)
    for progress, capacity in ((0.0, 0.0), (0.25, 4.0), (0.5, 8.0), (1.0, 8.0)):
        schedule.after_step(progress)
        for r in (3.0, 6.0, 9.0):
            loss = schedule(torch.full((2, 1), r), torch.tensor([1.0, 2.0]))
            assert loss.item() == pytest.approx(1.5 + 5 * abs(r - capacity))


def test_a_capacity_holds_the_rate():
    found, _ = trained(RateConfig("capacity", nats=6.0))
    assert found["rate"] == pytest.approx(6.0, rel=0.02)


@pytest.mark.parametrize("nats", [4.0, 10.0, 22.0])
def test_a_target_rate_is_met_within_two_percent(nats):
    found, seen = trained(RateConfig("target_rate", nats=nats))
    assert found["rate"] == pytest.approx(nats, rel=0.02)
    assert seen[0] == 1 and max(seen[-1], 1 / seen[-1]) > 1.2, "the price differs from its start"


@pytest.mark.parametrize("nats", [20.0, 50.0])
def test_a_target_distortion_is_met_within_two_percent(nats):
    found, _ = trained(RateConfig("target_distortion", nats=nats))
    assert found["distortion"] == pytest.approx(nats, rel=0.02)


@pytest.mark.parametrize("kind", ["soft_free_bits", "target_rate", "target_distortion"])
def test_a_multiplier_continues_exactly_from_its_state(kind):
    config = RateConfig(kind, nats=5.0)

    def follow(schedule: RateSchedule, steps: range) -> torch.Tensor:
        for step in steps:
            rng = KeyedRNG(0, step)
            schedule(rng.uniform("rate", 16, 3) * 4, rng.uniform("distortion", 16) * 9)
            schedule.after_step(step / 40)
        return schedule.price

    whole, first, second = (RateSchedule(config, 3) for _ in range(3))
    follow(first, range(17))
    second.load_state_dict(first.state_dict())
    assert torch.equal(follow(second, range(17, 40)), follow(whole, range(40)))
    assert whole.price != 1


@pytest.mark.parametrize("kind", ["soft_free_bits", "target_rate", "target_distortion"])
def test_a_sampled_rate_below_zero_leaves_a_price(kind):
    schedule = RateSchedule(RateConfig(kind, nats=5.0), 1)
    for _ in range(30):
        schedule(torch.full((3, 1), -1.0), torch.full((3,), 2.0))
        schedule.after_step(0.5)
    assert 0 < schedule.price < math.inf


@pytest.mark.parametrize(
    "config",
    [
        RateConfig("linear", beta=3.0, warmup=1.0),
        RateConfig("cyclical", beta=3.0, cycles=4, ramp=0.5),
        RateConfig("cyclical", beta=3.0, cycles=3, ramp=1.0),
        RateConfig("cyclical", beta=3.0, cycles=1, ramp=0.0),
    ],
)
def test_every_annealing_ends_at_its_price(config):
    """Also the cyclical one: without care, its last step would be the start of the next cycle."""
    assert prices(config, [1.0, 1.5]) == pytest.approx([3, 3])


@pytest.mark.parametrize("kind", ["target_rate", "target_distortion"])
def test_a_price_that_can_not_reach_its_target_stays_within_limits(kind):
    for measured, limit in ((1e3, 1e4), (1e-3, 1e-4)):
        schedule = RateSchedule(RateConfig(kind, nats=1.0), 1)
        distortion = 2.0 - measured  # above its target while the rate is below, and then back
        for _ in range(400):
            schedule(torch.full((3, 1), measured), torch.full((3,), distortion))
            schedule.after_step(0.5)
        assert schedule.price == pytest.approx(limit)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["soft_free_bits", "target_rate", "target_distortion"])
def test_a_step_that_is_not_finite_moves_no_multiplier(kind, bad):
    """A gradient scaler skips such a step, but the moving average would keep a NaN forever."""
    plain, disturbed = (RateSchedule(RateConfig(kind, nats=5.0), 2) for _ in range(2))
    for step in range(35):
        rate, distortion = torch.full((3, 2), 4.0 + step), torch.full((3,), 2.0)
        if step in (0, 9, 19, 20):
            before = disturbed.price.clone()
            disturbed(rate, distortion.index_fill(0, torch.tensor([1]), bad))
            disturbed.after_step(0.5)
            disturbed(rate * bad, distortion)
            disturbed.after_step(0.5)
            assert torch.equal(disturbed.price, before)
        for schedule in (plain, disturbed):
            schedule(rate, distortion)
            schedule.after_step(0.5)
    for name, value in plain.state_dict().items():
        assert torch.equal(disturbed.state_dict()[name], value)
    assert plain.price != 1


@pytest.mark.parametrize("told, held", [(50.0, 3.0), (2.9, 2.9), (-6.9, -6.9), (-50.0, -7.0)])
def test_the_posteriors_log_sigma_stays_between_its_limits(told, held):
    method = linear_vae(RateConfig())
    with torch.no_grad():
        method.to_posterior.weight.zero_()
        method.to_posterior.bias.fill_(told)
    mean, log_sigma = method.moments(torch.zeros(2, *SHAPE))
    torch.testing.assert_close(log_sigma, torch.full_like(log_sigma, held))
    torch.testing.assert_close(mean, torch.full_like(mean, told))


def test_informative_dimensions_have_a_hundredth_of_a_nat_at_any_variance():
    method = linear_vae(RateConfig())
    rate = torch.tensor([[0.0, 0.005, 0.011, 0.2, 3.0, 0.0, 0.0, 0.0]]).repeat(4, 1)
    metrics = method.output(rate, torch.ones(4)).metrics
    assert metrics["informative_dimensions"] == 3
    assert not any("active" in name for name in metrics)


def test_an_evaluation_does_not_change_a_multiplier():
    schedule = RateSchedule(RateConfig("target_rate", nats=5.0), 2)
    schedule(torch.ones(4, 2), torch.ones(4))
    schedule.after_step(0.1)
    twin = RateSchedule(schedule.config, 2)
    twin.load_state_dict(schedule.state_dict())
    schedule(torch.ones(4, 2), torch.ones(4))
    schedule.eval()
    schedule(torch.full((4, 2), 100.0), torch.ones(4))
    schedule.after_step(0.2)
    twin(torch.ones(4, 2), torch.ones(4))
    twin.after_step(0.2)
    assert torch.equal(schedule.price, twin.price)


@pytest.mark.parametrize(
    "change, key",
    [
        ({"kind": "constnat"}, r"kind: .*did you mean 'constant'"),
        ({"beta": -1.0}, "beta: must be 0 or more"),
        ({"beta": math.inf}, "beta"),
        ({"warmup": 0.1}, "warmup: constant does not use it"),
        ({"kind": "linear", "warmup": 2.0}, r"warmup: must be in \[0, 1\]"),
        ({"kind": "linear", "nats": 2.0}, "nats: linear does not use it"),
        ({"kind": "cyclical", "cycles": 0}, "cycles: must be 1 or more"),
        ({"kind": "target_rate"}, "nats: target_rate needs it"),
        ({"kind": "target_rate", "nats": -3.0}, "nats: must be 0 or more"),
        ({"kind": "target_rate", "nats": 0.0}, "nats"),
        ({"kind": "target_rate", "nats": 3.0, "beta": 0.0}, "beta"),
        ({"kind": "target_distortion", "nats": math.nan}, "nats: must be finite"),
        ({"kind": "free_bits", "nats": 1.0, "group": -1}, "group"),
        ({"kind": "capacity", "nats": 5.0, "beta": 1.0}, "beta: capacity does not use it"),
    ],
)
def test_impossible_schedules_name_their_key(change, key):
    with pytest.raises(ValueError, match=rf"^rate\.{key}"):
        RateConfig(**change)


def test_a_distortion_may_be_negative():
    assert RateConfig("target_distortion", nats=-300.0).settings()["nats"] == -300


def test_groups_that_do_not_divide_the_code_are_refused():
    with pytest.raises(
        UserError, match=r"^model\.rate\.group: the rate has 8 terms, .* groups of 3$"
    ):
        linear_vae(RateConfig("free_bits", nats=1.0, group=3))


@pytest.mark.parametrize(
    "price, rate, scale", [(0.5, 8.0, 4.0), (2.0, 8.0, 16.0), (9.0, 8.0, 20.0)]
)
def test_a_nat_of_distortion_counts_beside_price_times_rate(price, rate, scale):
    """e = (D* - D) / min(price R, |D*|) with D* = 20, D = 21: the price must fall."""
    schedule = RateSchedule(RateConfig("target_distortion", nats=20.0), 1)
    schedule.price.fill_(price)
    found = schedule._error(torch.tensor([rate, 21.0]))
    assert found.item() == pytest.approx(-1 / scale)


@pytest.mark.parametrize(("measured", "error"), [(5e3, 1.0), (5e-3, -1.0), (10.0, math.log(2))])
def test_one_step_moves_a_multiplier_by_a_limited_error(measured, error):
    """log price += 0.05 e in the first step, whose average is the measured rate itself."""
    schedule = RateSchedule(RateConfig("target_rate", nats=5.0), 1)
    before = schedule.price.item()
    schedule(torch.full((3, 1), measured), torch.zeros(3))
    schedule.after_step(0.1)
    assert schedule.price.item() == pytest.approx(before * math.exp(0.05 * error), rel=1e-5)
