"""alpha-ReQ and the parts of CLID against closed forms, numpy and scikit-learn."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from core.information.geometry import spectral_decay
from probes.report.page import lead
from probes.views import clid
from probes.views.geometry import GeometryProbe, layout


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=random, dtype=torch.float64)


def with_spectrum(values: torch.Tensor, n: int = 600) -> torch.Tensor:
    """Features whose covariance has these eigenvalues, up to a factor, in a random basis."""
    d = len(values)
    axes = torch.linalg.qr(torch.cat([torch.ones(n, 1), normal(n, d)], 1)).Q[:, 1:]  # mean zero
    return axes * values.sqrt() @ torch.linalg.qr(normal(d, d, seed=1)).Q


@pytest.mark.parametrize("d", [3, 16, 64, 150])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
def test_alpha_is_the_exponent_of_a_power_law(d, alpha):
    x = with_spectrum(torch.arange(1, d + 1).double() ** -alpha)
    assert spectral_decay(x) == pytest.approx(alpha, abs=1e-9)
    assert spectral_decay(3 * x + 5) == pytest.approx(alpha, abs=1e-9)
    assert spectral_decay(F.pad(x, (0, 40))) == pytest.approx(alpha, abs=1e-9)  # unused dimensions
    assert spectral_decay(x.float()) == pytest.approx(alpha, abs=1e-4)


@pytest.mark.parametrize("d, first", [(24, 6), (120, 10), (300, 10)])
def test_alpha_of_another_spectrum_is_the_weighted_slope_of_numpy(d, first):
    values = np.exp(-np.arange(d) / 30) + 0.05 * np.random.default_rng(0).random(d)
    values = np.sort(values)[::-1].copy()
    j = np.arange(1, d + 1)[first:100]
    # numpy multiplies the residuals by w, so their squares by w^2
    slope, _ = np.polyfit(np.log(j), np.log(values[first:100]), 1, w=j**-0.5)
    assert spectral_decay(with_spectrum(torch.from_numpy(values))) == pytest.approx(-slope)


FLAT = torch.full((50, 8), 3.0)


@pytest.mark.parametrize("x", [FLAT, normal(50, 2), normal(50, 1) @ normal(1, 8)])
def test_a_spectrum_of_fewer_than_three_directions_has_no_alpha(x):
    assert math.isnan(spectral_decay(x))
    assert math.isnan(spectral_decay(x.index_fill(0, torch.tensor([1]), math.inf)))


@pytest.mark.parametrize("d", [1, 2, 4])
def test_the_dimension_of_a_flat_torus_is_known(d):
    """Uniform points on d circles in 2 d dimensions, rotated into 40; its standard error is
    d / sqrt(n).
    """
    angle = 2 * math.pi * torch.rand(2000, d, generator=torch.Generator().manual_seed(0))
    torus = torch.cat([angle.cos(), angle.sin()], 1).double()
    placed = 7 * torus @ torch.linalg.qr(normal(40, 2 * d)).Q.T + 3
    found = clid.intrinsic_dimension(placed)
    assert found == pytest.approx(d, abs=3.5 * d / math.sqrt(2000))
    assert found == pytest.approx(clid.intrinsic_dimension(torus), rel=1e-6)
    again = torch.cat([placed, placed[:500]])
    assert clid.intrinsic_dimension(again) == pytest.approx(found)  # copies are left out


def test_the_dimension_is_pareto_s_estimate_from_scikit_learns_neighbours():
    x = normal(300, 12) * torch.logspace(0, -2, 12)
    r = NearestNeighbors(n_neighbors=3).fit(x.numpy()).kneighbors()[0]
    expected = 299 / np.log(r[:, 1] / r[:, 0]).sum()
    assert clid.intrinsic_dimension(x) == pytest.approx(expected, rel=1e-9)


def test_learnability_is_the_accuracy_of_scikit_learns_classifier():
    x = normal(401, 9)
    unit = F.normalize(x, dim=1).numpy()
    y = KMeans(20, n_init=1, random_state=3).fit_predict(unit)
    peer = KNeighborsClassifier(1, metric="cosine").fit(unit[:200], y[:200])
    expected = peer.score(unit[200:], y[200:])
    assert clid.cluster_learnability(x, seed=3) == pytest.approx(expected)
    assert 0.1 < expected < 0.9
    assert clid.cluster_learnability(5 * x.float(), seed=3) == pytest.approx(expected, abs=0.03)


def test_separated_clusters_are_learned_and_noise_of_many_dimensions_is_not():
    centres = 10 * normal(20, 64)
    clusters = centres[torch.arange(400) % 20] + 0.1 * normal(400, 64, seed=1)
    assert clid.cluster_learnability(clusters) > 0.97
    assert clid.cluster_learnability(normal(400, 64)) < 0.4


@pytest.mark.parametrize("x", [FLAT, normal(50, 8) * math.inf])
def test_a_collapse_has_no_clusters_and_no_dimension(x):
    assert math.isnan(clid.cluster_learnability(x)) and math.isnan(clid.intrinsic_dimension(x))
    with pytest.raises(ValueError, match="4 images"):
        clid.cluster_learnability(x[:3])


def test_the_report_holds_them_and_leaves_out_what_a_collapse_has_not():
    found = layout(normal(60, 12).float())
    assert {"spectral_decay", "cluster_learnability", "intrinsic_dimension"} <= found.keys()
    (line,) = GeometryProbe().sentences({"features": found})
    assert f"α-ReQ {found['spectral_decay']:.2f}" in line and "intrinsic dimension" in line
    flat = layout(torch.full((60, 12), 3.0))
    assert not {"spectral_decay", "cluster_learnability", "intrinsic_dimension"} & flat.keys()
    assert "α-ReQ" not in GeometryProbe().sentences({"features": flat})[0]
    plain, terms = GeometryProbe().plain({"features": found})[-1], dict(lead.words(["geometry"]))
    for term in ("α-ReQ", "cluster learnability", "intrinsic dimension"):  # shown and explained
        assert term in plain and terms[term]
    assert len(GeometryProbe().plain({"features": flat})) == 1 and not lead.words(["linear"])
    few = layout(normal(3, 12).float())
    assert "cluster_learnability" not in few
