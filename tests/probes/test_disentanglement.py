"""Disentanglement of codes with known scores, each against scikit-learn and a plain loop."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy, ortho_group
from sklearn.metrics import balanced_accuracy_score, mutual_info_score
from sklearn.tree import DecisionTreeClassifier

from core.randomness import KeyedRNG
from core.run.features import Features
from probes.latents import disentanglement as probe
from probes.latents.disentanglement import (
    _binned,
    _contingency,
    _edges,
    dci,
    disentanglement,
    mig,
    sap,
    scores,
)

FACTORS = (("shape", 4), ("colour", 4), ("size", 2), ("row", 3), ("column", 3))
ROTATION = torch.from_numpy(ortho_group.rvs(5, random_state=0)).float()


def factors(n: int, seed: int) -> torch.Tensor:
    return torch.stack([KeyedRNG(seed, 0).integers(name, count, n) for name, count in FACTORS], 1)


def features(kind: str, n: int, seed: int) -> Features:
    y = factors(n, seed)
    standard = (y - y.float().mean(0)) / y.float().std(0)
    noise = KeyedRNG(seed, 0).normal("noise", n, 5)
    x = {
        "factors": y.float(),
        "rotated": (standard + 0.1 * noise) @ ROTATION,
        "noise": noise,
        "noisy": standard + 0.6 * noise,
    }[kind]
    return Features(x, y, FACTORS)


@pytest.fixture(scope="module", autouse=True)
def _few_trees():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "MOST", 2000)
        yield


def found(kind: str) -> dict:
    return disentanglement(features(kind, 4000, 0), features(kind, 2000, 1))


def test_a_code_that_is_the_factors_scores_one():
    read = found("factors")
    assert all(
        read[name] == pytest.approx(1, abs=0.03)
        for name in ("mig", "sap", "disentanglement", "completeness", "informativeness")
    )
    assert (
        read["factors"] == ["shape", "colour", "size", "row", "column"] and read["images"] == 2000
    )


@pytest.mark.parametrize(("kind", "most"), [("rotated", 0.25), ("noise", 0.05)])
def test_a_rotation_and_noise_score_near_zero(kind, most):
    read = found(kind)
    print(
        kind,
        {
            key: read[key]
            for key in ("mig", "sap", "disentanglement", "completeness", "informativeness")
        },
    )
    assert all(
        -0.05 < read[name] < most for name in ("mig", "sap", "disentanglement", "completeness")
    )


def test_a_rotation_keeps_the_readable_information_and_noise_does_not():
    assert found("rotated")["informativeness"] > 0.9
    assert found("noise")["informativeness"] == pytest.approx(
        np.mean([1 / count for _, count in FACTORS]), abs=0.05
    )


@pytest.fixture(scope="module")
def binned():
    train, test = features("noisy", 4000, 0), features("noisy", 2000, 1)
    edges = _edges(train.x)
    return train, test, _binned(train.x, edges), _binned(test.x, edges)


def test_mig_equals_scikit_learns_mutual_information(binned):
    _, test, _, bins = binned
    gaps = []
    for column in range(5):
        value = test.y[:, column].numpy()
        information = sorted(mutual_info_score(value, code) for code in bins.numpy())
        gaps.append((information[-1] - information[-2]) / entropy(np.bincount(value)))
    assert 0.1 < np.mean(gaps) < 0.9
    assert mig(_contingency(bins, test)) == pytest.approx(np.mean(gaps), abs=1e-9)


def test_sap_equals_a_balanced_tree_on_one_binned_feature(binned):
    train, test, bins, bins_test = binned
    gaps = []
    for column in range(5):
        reached = []
        for code, code_test in zip(bins.numpy(), bins_test.numpy(), strict=True):
            tree = DecisionTreeClassifier(class_weight="balanced", random_state=0).fit(
                code[:, None], train.y[:, column].numpy()
            )
            accuracy = balanced_accuracy_score(
                test.y[:, column].numpy(), tree.predict(code_test[:, None]), adjusted=True
            )
            reached.append(accuracy)
        gaps.append(sorted(reached)[-1] - sorted(reached)[-2])
    assert 0.1 < np.mean(gaps) < 0.95
    # in a bin where two values weigh the same, the tree's rounding decides
    assert sap(_contingency(bins, train), _contingency(bins_test, test)) == pytest.approx(
        np.mean(gaps), abs=5e-4
    )


def test_dci_scores_are_the_entropies_of_scipy():
    importance = np.random.default_rng(0).random((7, 5)) ** 4
    importance[3] = 0  # a dead feature
    weight = importance.sum(1) / importance.sum()
    apart = [0.0 if not row.any() else 1 - entropy(row, base=5) for row in importance]
    whole = [1 - entropy(column, base=7) for column in importance.T]
    read = scores(torch.from_numpy(importance))
    assert read["disentanglement"] == pytest.approx(np.dot(weight, apart))
    assert read["completeness"] == pytest.approx(np.mean(whole))


def test_dci_finds_the_feature_of_two_factors():
    """One feature that represents two factors, and three features with one factor each: complete,
    but not disentangled.
    """
    train, test = features("factors", 4000, 0), features("factors", 2000, 1)
    merged = [
        f._replace(x=torch.cat([f.x[:, :1] * 4 + f.x[:, 1:2], f.x[:, 2:]], 1))
        for f in (train, test)
    ]
    read = dci(*merged)
    assert read["completeness"] > 0.9 and read["informativeness"] > 0.95
    assert read["disentanglement"] < 0.85


def test_bins_have_equal_mass_and_follow_any_monotone_map():
    x = KeyedRNG(0, 0).normal("x", 2000, 3)
    bins = _binned(x, _edges(x))
    assert all((torch.bincount(code, minlength=probe.BINS) - 100).abs().max() <= 1 for code in bins)
    assert torch.equal(bins, _binned(x.exp(), _edges(x.exp())))


def test_constant_features_score_zero():
    dead = [
        f._replace(x=torch.zeros_like(f.x))
        for f in (features("noise", 500, 0), features("noise", 300, 1))
    ]
    read = disentanglement(*dead)
    assert all(abs(read[name]) < 1e-6 for name in ("mig", "sap", "disentanglement", "completeness"))


def test_the_gap_of_a_single_feature():
    one = [
        f._replace(x=f.x[:, :1]) for f in (features("factors", 500, 0), features("factors", 300, 1))
    ]
    read = disentanglement(*one)
    assert all(
        math.isfinite(read[name]) for name in ("mig", "sap", "disentanglement", "completeness")
    )
    assert 0.15 < read["mig"] < 0.25


def test_a_factor_of_one_value_is_left_out():
    train, test = features("factors", 500, 0), features("factors", 300, 1)
    train, test = (
        Features(
            f.x,
            torch.cat([f.y, torch.zeros(len(f.y), 1, dtype=torch.long)], 1),
            (*FACTORS, ("hue", 1)),
        )
        for f in (train, test)
    )
    read = disentanglement(train, test)
    assert read["factors"] == [name for name, _ in FACTORS] and read["mig"] == pytest.approx(
        1, abs=0.05
    )


def test_every_score_is_read_on_test_and_fitted_on_train():
    """Test labels that have nothing to do with the features score nothing, whatever train says."""
    generator = torch.Generator().manual_seed(0)
    x, y, other = (torch.randint(3, (2000, 2), generator=generator) for _ in range(3))
    factors = (("a", 3), ("b", 3))
    told, untold = Features(x.float(), x, factors), Features(y.float(), other, factors)
    named = ("mig", "sap")
    high, low = disentanglement(told, told), disentanglement(told, untold)
    assert all(high[name] > 0.9 for name in named) and high["informativeness"] > 0.99
    assert all(abs(low[name]) < 0.05 for name in named) and low["informativeness"] < 0.4
    fitted_on_noise = disentanglement(untold, told)
    assert fitted_on_noise["mig"] > 0.9 and fitted_on_noise["sap"] < 0.6
