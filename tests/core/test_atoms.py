"""Entropy, divergence and information against scipy.stats, scikit-learn and closed forms, on random
distributions; their inequalities and chain rules as properties.
"""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr
from sklearn.metrics import mutual_info_score

from core.information import atoms, from_samples, gaussians, units

CLOSE = {"rel": 1e-9, "abs": 1e-12}
few = settings(max_examples=20, deadline=None)


@st.composite
def table(draw, *lengths: int, zeros: bool = True):
    """A distribution over a grid of these lengths, with some probabilities of exactly 0."""
    lengths = lengths or (draw(st.integers(1, 6)),)
    least = 0.0 if zeros else 1e-3
    value = st.one_of(st.just(least), st.floats(1e-3, 1.0))
    size = math.prod(lengths)
    found = np.array(draw(st.lists(value, min_size=size, max_size=size)))
    found = found if found.sum() > 0 else np.ones(size)
    return (found / found.sum()).reshape(lengths)


@st.composite
def two(draw, zeros: bool = True):
    size = draw(st.integers(1, 6))
    return draw(table(size, zeros=zeros)), draw(table(size, zeros=zeros))


@few
@given(two(), st.floats(1.5, 20))
def test_entropies_and_divergences_are_those_of_scipy(pair, base):
    p, q = pair
    assert atoms.entropy(p, base) == pytest.approx(stats.entropy(p, base=base), **CLOSE)
    assert atoms.kl(p, q, base) == pytest.approx(stats.entropy(p, q, base=base), **CLOSE)
    theirs = jensenshannon(p, q, base=base) ** 2
    assert atoms.jensen_shannon(p, q, base=base) == pytest.approx(theirs, rel=1e-6, abs=1e-9)
    both = atoms.entropy(p, base) + atoms.kl(p, q, base)
    assert atoms.cross_entropy(p, q, base) == pytest.approx(both, **CLOSE)


@few
@given(two())
def test_divergences_have_their_bounds(pair):
    p, q = pair
    assert atoms.kl(p, q) >= -1e-15 and atoms.kl(p, p) == 0
    assert math.isinf(atoms.kl(p, q)) == bool(((q == 0) & (p > 0)).any())
    assert 0 <= atoms.jensen_shannon(p, q) <= math.log(2) + 1e-12
    assert 0 <= atoms.entropy(p) <= math.log(len(p)) + 1e-12
    # Pinsker: D >= 2 TV^2
    assert atoms.kl(p, q) >= 0.5 * np.abs(p - q).sum() ** 2 - 1e-12


@few
@given(two(zeros=False), st.floats(0.01, 0.99))
def test_evidence_moves_the_log_odds_as_bayes_does(pair, prior):
    p, q = pair
    weight = atoms.weight_of_evidence(p, q)
    posterior = prior * p / (prior * p + (1 - prior) * q)
    odds = math.log(prior / (1 - prior)) + weight
    assert np.log(posterior / (1 - posterior)) == pytest.approx(odds, abs=1e-9)
    assert (p * weight).sum() == pytest.approx(atoms.kl(p, q), abs=1e-12)
    # the same coin: its information is the Jensen-Shannon divergence
    joint = np.stack([prior * p, (1 - prior) * q])
    found = atoms.jensen_shannon(p, q, prior)
    assert found == pytest.approx(atoms.mutual_information(joint), abs=1e-12)


@few
@given(st.lists(st.integers(0, 50), min_size=12, max_size=12).filter(any))
def test_a_joint_table_has_the_information_of_scikit_learn(counts):
    contingency = np.array(counts).reshape(3, 4)
    joint = contingency / contingency.sum()
    found = atoms.mutual_information(joint)
    theirs = mutual_info_score(None, None, contingency=contingency)
    assert found == pytest.approx(theirs, abs=1e-12)
    x, y = joint.sum(1), joint.sum(0)
    given_x = atoms.conditional_entropy(joint)
    assert atoms.joint_entropy(joint) == pytest.approx(atoms.entropy(x) + given_x, abs=1e-12)
    assert found == pytest.approx(atoms.entropy(y) - given_x, abs=1e-12)
    assert 0 <= found <= min(atoms.entropy(x), atoms.entropy(y)) + 1e-12
    assert found == pytest.approx(atoms.mutual_information(joint.T), abs=1e-12)
    assert given_x + 1e-15 >= 0 and given_x <= atoms.entropy(y) + 1e-12


@few
@given(table(3, 2, 4))
def test_information_obeys_its_chain_rule(joint):
    """I(X, Z; Y) = I(Z; Y) + I(X; Y | Z), with conditional entropies as the second way."""
    found = atoms.conditional_mutual_information(joint)
    with_both = atoms.mutual_information(joint.transpose(0, 2, 1).reshape(12, 2))
    alone = atoms.mutual_information(joint.sum(0).T)
    assert with_both == pytest.approx(alone + found, abs=1e-11) and found >= 0
    slices = joint.sum((0, 1))
    parts = [
        weight * atoms.mutual_information(joint[..., z] / weight)
        for z, weight in enumerate(slices)
        if weight > 0
    ]
    assert found == pytest.approx(sum(parts), abs=1e-11)


@few
@given(table(3, 4), table(3, 4))
def test_divergence_obeys_its_chain_rule_and_a_marginal_loses_some(p, q):
    joint, conditional = atoms.kl(p.ravel(), q.ravel()), atoms.conditional_kl(p, q)
    assert joint == pytest.approx(atoms.kl(p.sum(1), q.sum(1)) + conditional, abs=1e-11)
    assert atoms.kl(p.sum(0), q.sum(0)) <= joint + 1e-12
    assert atoms.kl(p.sum(1), q.sum(1)) <= joint + 1e-12


@few
@given(two(), table(6, 3), table(4, 5), table(5, 3))
def test_processing_creates_nothing(pair, channel, joint, second):
    """A channel lowers D, and X - Y - Z lowers I: data processing."""
    p, q = pair
    rows = channel[: len(p)]
    rows = (rows + 1e-3) / (rows + 1e-3).sum(1, keepdims=True)
    assert atoms.kl(p @ rows, q @ rows) <= atoms.kl(p, q) + 1e-12
    second = (second + 1e-3) / (second + 1e-3).sum(1, keepdims=True)
    through = joint @ second  # p(x, z)
    assert atoms.mutual_information(through) <= atoms.mutual_information(joint) + 1e-12


def test_rare_outcomes_do_not_make_information_infinite():
    """P(N) of many coins has values whose products are 0 in floating point: I(N; N) = H(N)."""
    of_n = stats.binom.pmf(np.arange(201), 200, 0.03)
    assert of_n.min() ** 2 == 0 and of_n.min() > 0
    assert atoms.mutual_information(np.diag(of_n)) == pytest.approx(stats.entropy(of_n), rel=1e-9)
    table = np.stack([np.diag(of_n), np.diag(of_n)], -1) / 2  # Z is a fair coin of its own
    found = atoms.conditional_mutual_information(table)
    assert found == pytest.approx(stats.entropy(of_n), rel=1e-9)
    doubled = of_n[:, None] * [[0.9, 0.1]]
    rows = atoms.conditional_kl(doubled, of_n[:, None] * [[0.5, 0.5]])
    assert rows == pytest.approx(atoms.kl([0.9, 0.1], [0.5, 0.5]))


def test_leading_axes_are_distributions_of_their_own():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(5), (2, 3)), rng.dirichlet(np.ones(5), 3)
    assert atoms.kl(p, q) == pytest.approx(rel_entr(p, q).sum(-1), abs=1e-15)
    assert atoms.entropy(torch.tensor(p)) == pytest.approx(stats.entropy(p, axis=-1))
    assert atoms.entropy(np.float32([0.1] * 10)) == pytest.approx(math.log(10))
    assert atoms.conditional_kl([[0.5, 0.5], [0, 0]], [[0, 0], [0.5, 0.5]]) == math.inf
    evidence = atoms.weight_of_evidence([1, 0, 0], [0, 1, 0])
    assert evidence[0] == math.inf and evidence[1] == -math.inf and math.isnan(evidence[2])


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: atoms.entropy([0.5, 0.4]), "p: probabilities must sum to 1, but their sum is 0.9"),
        (lambda: atoms.entropy([1.5, -0.5]), "finite and 0 or more"),
        (lambda: atoms.entropy([math.nan, 1]), "finite and 0 or more"),
        (lambda: atoms.entropy([]), "must be a vector"),
        (lambda: atoms.mutual_information([0.5, 0.5]), r"joint: must be a table \[X, Y\]"),
        (lambda: atoms.kl([0.5, 0.5], [1]), "p has 2 outcomes and q 1"),
        (lambda: atoms.entropy([1], base=1), "base: must be finite and above 1"),
        (lambda: atoms.jensen_shannon([1], [1], weight=1), "weight: must be between 0 and 1"),
        (lambda: gaussians.gaussian_entropy([[1, 2], [2, 1]]), "must be positive definite"),
        (lambda: gaussians.gaussian_entropy([[1, 0.5], [0, 1]]), "must be symmetric"),
        (lambda: gaussians.gaussian_kl([0, 0], 1, 0, 1), "same number of dimensions"),
        (lambda: gaussians.gaussian_information(np.eye(2), 2), "first: must be from 1 to 1"),
        (lambda: from_samples.plug_in_entropy([]), "must be samples"),
        (lambda: from_samples.plug_in_information([1], [1, 2]), "must be paired samples"),
        (lambda: from_samples.nearest_neighbour_information([1.0], [2.0]), "1 samples are too few"),
        (lambda: units.bits_per_dim(1.0, 0), "dimensions: must be 1 or more"),
    ],
)
def test_what_is_no_distribution_is_named(call, line):
    with pytest.raises(ValueError, match=line):
        call()


def covariance(seed: int, d: int) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(d, d + 2))
    return root @ root.T / d + 0.05 * np.eye(d)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.floats(1.5, 10))
def test_gaussians_are_those_of_scipy_and_torch(seed, d, base):
    rng = np.random.default_rng(seed)
    first, second = covariance(seed, d), covariance(seed + 1, d)
    means = rng.normal(size=(2, d))
    theirs = stats.multivariate_normal(means[0], first).entropy() / math.log(base)
    assert gaussians.gaussian_entropy(first, base) == pytest.approx(theirs, rel=1e-9)
    p, q = (
        torch.distributions.MultivariateNormal(torch.tensor(mean), torch.tensor(matrix))
        for mean, matrix in zip(means, (first, second), strict=True)
    )
    theirs = torch.distributions.kl_divergence(p, q).item()
    found = gaussians.gaussian_kl(means[0], first, means[1], second)
    assert found == pytest.approx(theirs, rel=1e-7) and found >= 0
    # I is the divergence of the joint from the product of its marginals
    k = d // 2
    apart = first.copy()
    apart[:k, k:] = apart[k:, :k] = 0
    found = gaussians.gaussian_information(first, k)
    assert found == pytest.approx(gaussians.gaussian_kl(means[0], first, means[0], apart), abs=1e-9)


def test_units_are_converted_in_one_place():
    assert units.bits(units.nats(3.7)) == pytest.approx(3.7)
    assert units.in_base(math.log(1000), 10) == pytest.approx(3)
    x = torch.tensor([math.log(2), math.log(256)])
    assert units.bits_per_dim(x, 2).tolist() == pytest.approx([0.5, 4])
    root = Path(units.__file__).parents[2]
    by_hand = [
        path.name
        for room in ("core", "contrastive", "vae", "probes", "scripts")
        for path in (root / room).rglob("*.py")
        if re.search(r"/ \(?[^,\n]*\b(math|np|numpy)\.log\(2(\.0)?\)", path.read_text())
    ]
    # exp2 in place of exp needs this factor, and a grid of powers of two; no units of a result
    assert sorted(by_hand) == ["chunked.py", "grid.py"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc")), min_size=2, max_size=50))
def test_estimates_from_counts_are_those_of_scikit_learn(pairs):
    x, y = zip(*pairs, strict=True)
    found = from_samples.plug_in_information(x, y)
    assert found == pytest.approx(mutual_info_score(x, y), abs=1e-12)
    both = [f"{a}{b}" for a, b in pairs]
    for estimate in (from_samples.plug_in_entropy, from_samples.miller_madow_entropy):
        assert estimate(x) >= 0
    h = from_samples.miller_madow_entropy
    assert from_samples.miller_madow_information(x, y) == pytest.approx(
        h(x) + h(y) - h(both), abs=1e-12
    )


def test_the_correction_of_miller_and_madow_removes_most_of_the_bias():
    rng, p = np.random.default_rng(0), np.full(20, 0.05)
    draws = [rng.choice(20, 100, p=p) for _ in range(300)]
    plug_in, corrected = (
        np.mean([estimate(draw) for draw in draws]) - math.log(20)
        for estimate in (from_samples.plug_in_entropy, from_samples.miller_madow_entropy)
    )
    assert plug_in == pytest.approx(-19 / 200, abs=0.01)
    assert abs(corrected) < 0.15 * abs(plug_in)


def test_nearest_neighbours_find_the_information_of_gaussian_columns():
    rng = np.random.default_rng(1)
    matrix = [[1, 0.9], [0.9, 1]]
    x, y = rng.multivariate_normal([0, 0], matrix, 2000).T
    found = from_samples.nearest_neighbour_information(x, y)
    assert found == pytest.approx(gaussians.gaussian_information(matrix, 1), abs=0.06)
    assert from_samples.nearest_neighbour_information(x, y, base=2) == units.bits(found)
    assert from_samples.nearest_neighbour_information(x, rng.permutation(y)) < 0.05


@pytest.mark.parametrize("missing", [float("nan"), None])
def test_a_missing_value_is_no_outcome(missing):
    samples = [0.0, 1.0, 1.0, missing]
    for call in (from_samples.plug_in_entropy, from_samples.miller_madow_entropy):
        with pytest.raises(ValueError, match="leave such samples out"):
            call(samples)
    for call in (from_samples.plug_in_information, from_samples.miller_madow_information):
        with pytest.raises(ValueError, match="leave such samples out"):
            call([0, 0, 1, 1], samples)


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.8])
def test_the_jensen_shannon_divergence_is_the_information_about_a_coin(weight):
    """H(mixture) - w H(p) - (1 - w) H(q), by scipy's entropies."""
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.0, 0.4, 0.6])
    mixed = stats.entropy(weight * p + (1 - weight) * q)
    expected = mixed - weight * stats.entropy(p) - (1 - weight) * stats.entropy(q)
    assert atoms.jensen_shannon(p, q, weight) == pytest.approx(expected, abs=1e-12)
