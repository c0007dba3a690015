"""Certificates: bounds against scipy's tails, coverage in simulated draws, a code that is read
back.
"""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from sklearn.datasets import load_digits

from core.errors import Unmeasurable
from core.information import generalisation
from core.information.atoms import kl
from core.information.gaussians import gaussian_kl
from core.randomness import KeyedRNG
from core.run.features import Features
from probes.labels import certified, noisy
from probes.report.store import check

share = st.floats(0, 1)
DRAWS = 60


@settings(max_examples=50, deadline=None)
@given(share, share, st.floats(0, 5))
def test_the_inverse_of_the_binary_divergence(q, p, budget):
    assert generalisation.binary_kl(q, p) == pytest.approx(kl([q, 1 - q], [p, 1 - p]), abs=1e-9)
    top = generalisation.kl_upper(q, budget)
    assert q <= top <= 1
    if top < 0.999:
        assert generalisation.binary_kl(q, top) == pytest.approx(budget, abs=1e-6)
    assert top <= q + math.sqrt(budget / 2) + 2e-8  # Pinsker; a square root of rounding
    assert top <= generalisation.kl_upper(q, budget + 0.1)


@pytest.mark.parametrize(("wrong", "n"), [(0, 100), (7, 100), (50, 1000)])
def test_an_occam_bound_of_length_0_covers_the_binomial_tail(wrong, n):
    """At the bound, so few errors have a probability of at most delta, by scipy's exact tail; the
    exact limit of Clopper and Pearson is not far below.
    """
    bound = generalisation.occam(wrong / n, 0.0, n, 0.01)
    assert binom.cdf(wrong, n, bound) <= 0.01
    assert binom.cdf(wrong, n, bound - 0.045) > 0.01
    assert generalisation.occam(wrong / n, 5.0, n, 0.01) > bound
    assert generalisation.pac_bayes(wrong / n, 0.0, n, 0.01) > bound  # log 2 sqrt n more


def test_without_an_error_the_bounds_are_closed_forms():
    """kl(0 || p) = -log(1 - p), so p = 1 - e^-budget."""
    n, delta = 400, 0.05
    for length in (0.0, 30.0):
        budget = (length + math.log(1 / delta)) / n
        assert generalisation.occam(0.0, length, n, delta) == pytest.approx(1 - math.exp(-budget))
        budget = (length + math.log(2 * math.sqrt(n) / delta)) / n
        bound = generalisation.pac_bayes(0.0, length, n, delta)
        assert bound == pytest.approx(1 - math.exp(-budget), abs=1e-11)
    assert generalisation.expected_gap(8.0, 100) == pytest.approx(0.2)


@pytest.mark.parametrize("size", [1, 20, 3000])
def test_a_code_has_the_parameter_that_makes_it_shortest(size):
    values = np.random.default_rng(0).integers(-size, size + 1, 50)
    u = [2 * abs(v) - (v > 0) for v in values.tolist()]
    lengths = [4 + sum((number >> k) + 1 + k for number in u) for k in range(16)]
    assert len(generalisation.rice_encode(values).bits) == min(lengths)
    assert 0 < int(np.argmin(lengths)) < 15 or size == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-300, 300), min_size=1, max_size=40))
def test_a_code_is_read_back_and_no_code_begins_another(values):
    code = generalisation.rice_encode(values)
    assert generalisation.rice_decode(code, len(values)).tolist() == values
    more = generalisation.Rice(np.concatenate([code.bits, [1, 0, 1]]).astype(np.uint8))
    assert generalisation.rice_decode(more, len(values)).tolist() == values
    with pytest.raises(ValueError, match="the code ends after"):
        generalisation.rice_decode(code, len(values) + 1)
    assert code.nats == pytest.approx(len(code.bits) * math.log(2))


def drawn(n: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes, the sign of the first feature, with one label in ten wrong."""
    x = torch.randn(n, 3, generator=rng)
    flipped = torch.rand(n, generator=rng) < 0.1
    return x, ((x[:, 0] > 0) ^ flipped).long()


def means(x: torch.Tensor, y: torch.Tensor) -> certified.Centre:
    """The classifier that compares class means: quick, and it depends on all labels."""
    side = torch.stack([x[y == label].mean(0) for label in (0, 1)]).double()
    bias = -0.5 * side.square().sum(1, keepdim=True)
    return certified.Centre(torch.cat([side, bias], 1))


def coverage(draws: int) -> list[tuple[float, float, float, float]]:
    """Bound and true error of both certificates, for each draw of 200 images."""
    rng, found = torch.Generator().manual_seed(0), []
    many = drawn(20_000, rng)
    for seed in range(draws):
        first, (x, y) = drawn(100, rng), drawn(200, rng)
        own = means(torch.cat([first[0], x]), torch.cat([first[1], y]))
        posterior, _, bound = certified.pac_bayes(x, y, means(*first), own, seed, 0.01)
        truth = certified.gibbs_errors(*many, posterior, seed, 1)
        quantised, r, _, short = certified.occam(x, y, {3: own}, 0.01)
        found.append((bound, truth, short, quantised.errors(many[0][:, :r], many[1])))
    return found


def test_certificates_hold_in_simulated_draws():
    found = np.array(coverage(DRAWS))
    assert (found[:, 0] >= found[:, 1]).all() and (found[:, 2] >= found[:, 3]).all()
    # and they say something: one label in ten is wrong, guessing has .5
    assert found[:, 0].mean() < 0.38 and found[:, 2].mean() < 0.5
    assert found[:, 1].mean() == pytest.approx(0.15, abs=0.03)


def test_drawn_classifiers_are_those_of_drawn_weights():
    """Independent logits have the errors of weights that are drawn for each image."""
    rng = torch.Generator().manual_seed(0)
    x, y = drawn(4000, rng)
    centre = means(*drawn(200, rng))
    found = certified.gibbs_errors(x, y, certified.Posterior(centre, 0.5, 0.0), 0, 4)
    wrong = []
    with_one = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    for _ in range(4):
        weight = centre.weight + 0.5 * torch.randn(
            len(x), *centre.weight.shape, generator=rng, dtype=torch.float64
        )
        wrong.append(((weight @ with_one[..., None])[..., 0].argmax(1) != y).double().mean())
    assert found == pytest.approx(float(np.mean(wrong)), abs=0.015)


def test_the_probe_on_digits_and_on_random_labels(tmp_path):
    x, y = load_digits(n_class=2, return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = torch.tensor(x[order, 18:38:3]).float(), torch.tensor(y[order])[:, None]
    train, test = (
        Features(x[part], y[part], (("digit", 2),)) for part in (slice(260), slice(260, None))
    )
    found, probe = certified.certified(train, test), certified.CertifiedProbe()
    part = found["factor"]["digit"]
    for kind in certified.KINDS:
        assert part[kind]["test"] <= part[kind]["bound"] < 0.5 and not part[kind]["vacuous"]
    trained = part[certified.NOISY]
    assert trained["test"] <= trained["bound"] < 0.5 and len(trained["levels"]) == 4
    assert part["occam"]["bits"] > 4 and found["confidence"] == 0.99 and found["images"] == 130
    check(probe, found)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert len(probe.cells(found)) == len(probe.values(found)) == len(probe.columns)
    assert certified.draw(found, tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    assert certified.draw_levels(found, tmp_path / "n.png").read_bytes()[:4] == b"\x89PNG"
    earlier = json.loads(json.dumps(found))  # a report of a version without the newer numbers
    del earlier["factor"]["digit"][certified.NOISY]
    del earlier["factor"]["digit"]["occam"]["test_low"]
    check(probe, earlier)
    labels = torch.randint(2, y.shape, generator=torch.Generator().manual_seed(0))
    noise = certified.certified(train._replace(y=labels[:260]), test._replace(y=labels[260:]))
    assert all(part["vacuous"] for part in noise["factor"]["digit"].values())
    assert all("vacuous: guessing is as good" in line for line in probe.sentences(noise)[:3])
    with pytest.raises(Unmeasurable, match="needs 100 training images"):
        certified.certified(Features(x[:50], y[:50], train.factors), test)


def test_the_divergence_of_a_noisy_descent_is_that_of_its_gaussian_paths():
    """One weight, quadratic losses with different minima: both paths are Gaussian vectors."""
    rate, noise, steps, own, prior = 0.5, 0.3, 3, 1.0, 0.4

    def path(minimum):  # w_{t+1} = (1 - rate) w_t + rate minimum + noise e_t, from 0
        by_noise = noise * np.array([[(1 - rate) ** (t - s) * (s <= t) for s in range(steps)]
                                     for t in range(steps)])  # fmt: skip
        mean = [minimum * (1 - (1 - rate) ** (t + 1)) for t in range(steps)]
        return np.array(mean), by_noise @ by_noise.T

    (mean, spread), (other, same) = path(own), path(prior)
    whole = gaussian_kl(mean, spread, other, same)
    rng = KeyedRNG(0, 0)
    weights, found = noisy.descent(
        torch.zeros(1), lambda w: (w - own, w - prior), noise, rng, rate, steps
    )
    assert found == pytest.approx(whole)
    last = gaussian_kl(mean[-1], spread[-1, -1], other[-1], same[-1, -1])
    assert 0 < last < whole and weights.shape == (1,)
    many = [noisy.descent(torch.zeros(1), lambda w: (w - own, w - prior), noise, rng.fork(str(i)),
                          rate, steps)[0].item() for i in range(300)]  # fmt: skip
    assert np.mean(many) == pytest.approx(mean[-1], abs=0.08)
    assert np.std(many) == pytest.approx(math.sqrt(spread[-1, -1]), rel=0.15)


def test_the_mean_gap_of_probes_trained_with_noise_is_below_its_bound():
    """Few images, wrong labels: probes overfit, and the mean over training sets keeps the bound."""
    rng, gaps, tops = torch.Generator().manual_seed(0), [], []
    new = drawn(5000, rng)
    for seed in range(12):
        first, second = drawn(60, rng), drawn(60, rng)
        for level in noisy.levels(first, second, new, 2, KeyedRNG(seed, 0)):
            gaps.append(level.test - level.error)
            tops.append(level.gap)
    gaps, tops = np.array(gaps).reshape(12, -1).mean(0), np.array(tops).reshape(12, -1).mean(0)
    assert (gaps < tops).all() and (np.diff(tops) < 0).all() and gaps[0] > 0
    levels = [noisy.Level(0.1, 8.0, 0.2, 0.1, 0.1), noisy.Level(0.2, 0.5, 0.05, 0.2, 0.2)]
    chosen, bound = noisy.best(levels, 100)
    assert chosen is levels[1]
    assert bound == pytest.approx(0.2 + math.sqrt((0.5 + math.log(2)) / 200))


@pytest.mark.parametrize(("wrong", "n"), [(0, 50), (7, 100), (500, 1000)])
def test_the_interval_of_a_test_error_holds_the_exact_one(wrong, n):
    low, high = generalisation.error_interval(wrong / n, n, 0.01)
    exact = binomtest(wrong, n).proportion_ci(0.99)
    assert low <= exact.low + 1e-12 and exact.high <= high < exact.high + 0.03
    mirrored = generalisation.error_interval(1 - wrong / n, n, 0.01)
    assert mirrored == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(
    "call",
    [
        lambda: generalisation.kl_upper(1.5, 1.0),
        lambda: generalisation.pac_bayes(0.1, -1.0, 10, 0.1),
        lambda: generalisation.occam(0.1, 1.0, 10, 1.0),
        lambda: generalisation.expected_gap(-1.0, 10),
    ],
)
def test_what_has_no_bound_is_refused(call):
    with pytest.raises(ValueError, match="need|must be"):
        call()


@pytest.mark.parametrize("values", [[0.5, 1.0], [2**62], [-(2**63)], ["a"]])
def test_a_rice_code_takes_whole_numbers_only(values):
    """Another number would be cut without a word, and the code would be of other numbers."""
    with pytest.raises(ValueError, match="^values: must be"):
        generalisation.rice_encode(values)


def test_the_prior_does_not_depend_on_the_images_of_the_bound(monkeypatch):
    seen = []

    def pac_bayes(x, y, prior, own, *_):
        seen.append((prior.weight, own.weight))
        raise Unmeasurable("as far as needed")

    monkeypatch.setattr(certified, "pac_bayes", pac_bayes)
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(120, 4, generator=rng), torch.randint(2, (120, 1), generator=rng)
    second = KeyedRNG(0, 0).permutation("certificates", 120)[60:]
    other = y.clone()
    other[second] = 1 - other[second]
    for labels in (y, other):
        features = Features(x, labels, (("label", 2),))
        with pytest.raises(Unmeasurable):
            certified.certified(features, features)
    (prior, own), (again, changed) = seen
    assert prior.equal(again) and not own.equal(changed)


def test_a_bound_pays_for_the_choice_of_its_prior_and_for_its_draws():
    """Without an error and without a step from the prior, it is a closed form: a tenth of delta
    covers the draws, and the rest is divided among the priors.
    """
    x, n, delta = torch.tensor([[1.0], [-1.0]]).repeat(100, 1), 200, 0.05
    y = (x[:, 0] < 0).long()
    sure = certified.Centre(torch.tensor([[500.0, 0.0], [-500.0, 0.0]], dtype=torch.float64))
    posterior, error, bound = certified.pac_bayes(x, y, sure, sure, 0, delta)
    assert error == 0 and posterior.divergence == 0
    upper = 1 - math.exp(-math.log(10 / delta) / (certified.DRAWS * n))
    each = 0.9 * delta / len(certified.PRIORS)
    assert bound == pytest.approx(generalisation.pac_bayes(upper, 0.0, n, each), abs=1e-9)
    assert bound > generalisation.pac_bayes(upper, 0.0, n, 0.9 * delta)


def test_a_quantised_probe_pays_for_its_rank_and_its_step():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(100, 1)
    y = (x[:, 0] < 0).long()
    probe = certified.Centre(torch.tensor([[4.0, 0, 0], [-4.0, 0, 0]], dtype=torch.float64))
    quantised, rank, error, bound = certified.occam(x, y, {2: probe}, 0.05)
    assert (rank, error) == (2, 0.0)
    code = generalisation.rice_encode(quantised.numbers.numpy())
    length = code.nats + math.log(len(certified.RANKS) * len(certified.STEPS))
    assert bound == pytest.approx(1 - math.exp(-(length + math.log(1 / 0.05)) / 200))


def test_a_bound_of_noisy_training_pays_for_the_choice_of_its_noise():
    levels = [noisy.Level(0.1, 2.0, 0.0, 0.2, 0.3), noisy.Level(0.5, 1.0, 0.0, 0.1, 0.2)]
    level, bound = noisy.best(levels, 100)
    expected = 0.1 + math.sqrt((1.0 + math.log(2)) / 200)
    assert level is levels[1] and bound == pytest.approx(expected)
