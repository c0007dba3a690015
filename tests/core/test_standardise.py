"""Standardisation against scikit-learn's, unit rows against float64, and bad features."""

import math

import pytest
import torch
from sklearn.preprocessing import StandardScaler

from core.errors import Unmeasurable
from core.information.standardise import (
    mean_and_deviation,
    require_finite_features,
    require_finite_numbers,
    standardised,
    unit_rows,
)


def columns(n: int = 1500) -> dict[str, torch.Tensor]:
    """float32 features of many sizes, and which of them are dead."""
    normal = torch.randn(12, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {
        "usual": (normal[0] + 3).float(),
        "huge": (1e4 * normal[1]).float(),
        "tiny": (1e-3 * normal[2]).float(),
        "smaller": (1e-9 * normal[3] + 1e-9).float(),
        "denormal": (1e-40 * normal[4]).float(),
        "square overflows": (1e30 * normal[5]).float(),
        "square vanishes": (1e-30 * normal[6]).float(),
        "large mean": (1e6 + normal[7]).float(),
        "one image": torch.zeros(n).index_fill(0, torch.tensor([n - 1]), 5.0),
        "noise below rounding": (1e6 + 1e-9 * normal[8]).float(),
        "constant": torch.full((n,), 0.1),
        "constant and huge": torch.full((n,), -3e30),
        "zero": torch.zeros(n),
    }


def test_each_feature_is_standardised_like_by_scikit_learn():
    kept = columns()
    x = torch.stack(list(kept.values()), 1)
    peer = StandardScaler().fit(x.double().numpy())
    mean, deviation = mean_and_deviation(x)
    unbiased = math.sqrt(len(x) / (len(x) - 1))
    scale = torch.from_numpy(peer.scale_)
    dead = torch.tensor([name.startswith(("noise", "constant", "zero")) for name in kept])
    assert (scale[dead] == 1).all() and (deviation[dead] == 1).all()
    torch.testing.assert_close(mean, torch.from_numpy(peer.mean_), rtol=1e-9, atol=1e-44)
    torch.testing.assert_close(deviation[~dead], scale[~dead] * unbiased, rtol=1e-9, atol=0)
    expected = torch.from_numpy(peer.transform(x.double().numpy()))
    expected[:, ~dead] /= unbiased
    torch.testing.assert_close(
        standardised(x, mean, deviation).double(), expected, rtol=1e-6, atol=1e-6
    )
    alone = [mean_and_deviation(feature[:, None])[1] for feature in kept.values()]
    torch.testing.assert_close(torch.cat(alone), deviation, rtol=1e-13, atol=0)


def test_a_feature_that_varies_by_its_rounding_is_dead_and_by_more_is_not():
    ulp = torch.finfo(torch.float32).eps
    flips = torch.arange(1000) % 2
    for size in (1e-20, 1.0, 1e6):
        x = torch.stack([size * (1 + flips * ulp), size * (1 + 40 * flips * ulp)], 1)
        deviation = mean_and_deviation(x.float())[1] / size
        assert deviation[0] == 1 / size and 0 < deviation[1] < 40 * ulp


@pytest.mark.parametrize("n", [1, 2, 1023, 1024, 1025, 5000])
def test_mean_and_deviation_for_any_blocks(n):
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(n))
    mean, deviation = mean_and_deviation(x)
    torch.testing.assert_close(mean, x.double().mean(0))
    expected = x.double().std(0) if n > 1 else torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(deviation, expected)
    assert standardised(x, mean, deviation).shape == x.shape
    assert standardised(x, mean, deviation, torch.float64).dtype == torch.float64


def test_rows_of_any_size_become_unit_rows():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    for size in (1e30, 1e37, 1.0, 1e-30, 1e-38):
        expected = torch.nn.functional.normalize((x * size).double(), dim=1, eps=0)
        torch.testing.assert_close(unit_rows(x * size).double(), expected, rtol=0, atol=3e-7)
    assert torch.equal(unit_rows(torch.zeros(2, 3)), torch.zeros(2, 3))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_features_that_are_not_finite_are_counted_and_refused(bad):
    x = torch.randn(40, 3)
    require_finite_features(x, "probe")
    # their sum overflows, but the numbers do not
    require_finite_features(torch.full((40, 3), 3e38), "probe")
    x[3, 1], x[7, 0], x[7, 2] = bad, bad, bad
    with pytest.raises(Unmeasurable, match="^probe: the features of 2 of 40 images"):
        require_finite_features(x, "probe")


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (4,), (2, 3, 4)])
def test_features_that_are_not_a_matrix_are_refused(shape):
    with pytest.raises(Unmeasurable, match=r"^probe: features \[n, D\]"):
        require_finite_features(torch.zeros(shape), "probe")


def test_nested_results_are_searched_for_numbers_that_are_not_finite():
    good = {"a": 1.0, "b": {"c": [1, 2.0, {"d": 3.0}], "e": None, "f": "nan"}, "g": (1.0,)}
    require_finite_numbers(good, "probe")
    for bad in (math.nan, math.inf):
        for found in ({"a": bad}, {"b": {"c": [1, {"d": bad}]}}, {"g": (bad,)}, {"g": [[bad]]}):
            with pytest.raises(Unmeasurable, match="^probe.* is -?(nan|inf)"):
                require_finite_numbers(found, "probe")
