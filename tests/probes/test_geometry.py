"""Geometry against closed forms, numpy, scipy and scikit-learn; the probe on encoders whose
geometry is known.
"""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from scipy.spatial.distance import pdist
from scipy.special import ive
from scipy.stats import entropy
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from core.data.sprites import Sprites, SpritesConfig
from core.errors import Unmeasurable
from core.frozen import Frozen
from core.information.geometry import alignment, deviations, effective_rank, lidar, uniformity
from core.method import Method, PairCritic
from core.run import config
from probes.views.geometry import GeometryProbe, collapse, geometry, layout


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(normal(n, d, seed=seed), dim=1)


def circle(n: int) -> torch.Tensor:
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    return torch.stack([angle.cos(), angle.sin()], 1)


def test_alignment_is_twice_one_minus_the_mean_cosine():
    first, second = unit(50, 8, 1), unit(50, 8, 2)
    expected = 2 - 2 * F.cosine_similarity(first, second).mean()
    torch.testing.assert_close(alignment(first, second), expected)
    assert alignment(first, first) == 0
    assert alignment(first, -first).item() == pytest.approx(4)
    assert alignment(unit(20_000, 64, 1), unit(20_000, 64, 2)).item() == pytest.approx(
        2, abs=0.01
    )  # independent views


@pytest.mark.parametrize("n", [2, 3, 511, 512, 513, 1400])
def test_uniformity_equals_scipys_pairwise_distances_for_any_blocks(n):
    codes = unit(n, 5)
    assert uniformity(codes) == pytest.approx(
        math.log(np.exp(-2 * pdist(codes.double().numpy()) ** 2).mean()), abs=1e-5
    )


def test_uniformity_of_evenly_spread_points_on_a_circle_is_a_bessel_function():
    """The mean over n points with themselves is exp(-4) I_0(4); without self-pairs (n exp(-4)
    I_0(4) - 1) / (n - 1).
    """
    for n in (20, 3000):
        assert uniformity(circle(n)) == pytest.approx(
            math.log((n * ive(0, 4) - 1) / (n - 1)), abs=1e-9
        )
    assert uniformity(circle(20)) != pytest.approx(
        math.log(ive(0, 4)), abs=1e-2
    )  # the value if self-pairs were counted


def test_uniformity_of_a_collapse_is_zero_and_of_many_dimensions_near_minus_four():
    assert uniformity(unit(1, 8).expand(700, 8)) == pytest.approx(0, abs=1e-6)
    assert -4 < uniformity(unit(2000, 512)) < -3.95
    with pytest.raises(ValueError, match="2 or more"):
        uniformity(unit(1, 8))


@pytest.mark.parametrize("n, d", [(300, 20), (20, 300)])
def test_effective_rank_is_the_exponential_entropy_of_numpys_singular_values(n, d):
    x = normal(n, d) * torch.logspace(0, -3, d) + 0.3
    expected = math.exp(entropy(np.linalg.svd(x.double().numpy(), compute_uv=False)))
    assert effective_rank(x) == pytest.approx(expected, rel=1e-4)
    assert effective_rank(5 * x) == pytest.approx(effective_rank(x), rel=1e-6)


def test_effective_rank_is_the_number_of_dimensions_in_use():
    axes = torch.linalg.qr(normal(400, 32)).Q
    assert effective_rank(axes) == pytest.approx(
        32, rel=1e-4
    )  # the covariance is a multiple of the identity
    assert effective_rank(normal(50_000, 32)) == pytest.approx(32, rel=1e-3)
    assert effective_rank(axes[:, :5] @ normal(5, 512)) < 5.01  # five of 512 dimensions
    assert effective_rank(axes * torch.logspace(0, -1, 32)) < 30


@pytest.mark.parametrize("point", [0.0, 3.0])
def test_a_collapse_to_a_point_has_rank_one_everywhere(point):
    x = torch.full((200, 64), point)
    assert effective_rank(x) == pytest.approx(1, abs=1e-3)
    assert lidar(x.unflatten(0, (50, 4))) == 1
    assert deviations(x) == pytest.approx((0, 0, 1), abs=1e-6)
    rounded = x + 1e-8 * point * normal(200, 64).double()
    assert lidar(rounded.unflatten(0, (50, 4))) == 1


def test_features_that_are_not_finite_give_nan_and_no_crash():
    x = normal(20, 4).index_fill(0, torch.tensor([3]), math.inf)
    assert math.isnan(effective_rank(x)) and math.isnan(lidar(x.unflatten(0, (5, 4))))


def test_lidar_has_the_eigenvalues_of_scipys_generalised_problem():
    views = normal(60, 1, 12) * torch.logspace(0, -2, 12) + 0.3 * normal(60, 5, 12, seed=1)
    x = views.double().numpy()
    within = np.mean([np.cov(image.T) for image in x], axis=0) + 1e-4 * np.eye(12)
    values = scipy.linalg.eigh(np.cov(x.mean(1).T), within, eigvals_only=True)
    assert lidar(views) == pytest.approx(math.exp(entropy(values)), rel=1e-4)


def test_lidar_without_regularisation_has_the_ratios_of_scikit_learns_discriminant():
    views = normal(40, 1, 6) * torch.arange(1, 7) + normal(40, 8, 6, seed=1)
    peer = LinearDiscriminantAnalysis(solver="eigen").fit(
        views.flatten(0, 1).numpy(), np.repeat(np.arange(40), 8)
    )
    assert lidar(views, delta=0) == pytest.approx(
        math.exp(entropy(peer.explained_variance_ratio_)), rel=1e-4
    )


def test_lidar_counts_directions_of_images_and_not_of_views():
    content = F.pad(10 * normal(800, 1, 3), (0, 20)).expand(-1, 8, -1)
    scrambled = (
        content + F.pad(10 * normal(800, 8, 20, seed=1), (3, 0)) + 0.1 * normal(800, 8, 23, seed=2)
    )
    assert effective_rank(scrambled.flatten(0, 1)) > 20
    assert lidar(scrambled) < 4
    assert lidar(normal(800, 8, 23)) > 20  # features that ignore the image, as the docstring warns


def test_deviations_are_one_for_evenly_spread_codes_and_zero_for_unused_dimensions():
    spread = deviations(normal(20_000, 16))
    assert spread.mean == pytest.approx(1, abs=0.01) and spread.least > 0.98 and spread.dead == 0
    half = deviations(F.pad(normal(20_000, 8), (0, 8)))
    assert (
        half.dead == 0.5
        and half.least == 0
        and half.mean == pytest.approx(math.sqrt(2) / 2, abs=0.01)
    )
    one_sided = deviations(normal(1000, 16) + 20)
    assert one_sided.mean < 0.1 and one_sided.dead == 0


class Pixels(Method):
    """Features are projections of the image on fixed directions; `gain` 0 collapses them."""

    temperature = 0.1

    def __init__(self, gain: float = 1.0):
        super().__init__(None, (3, 32, 32))
        self.gain, self.directions = gain, normal(3072, 12)

    def forward(self, batch):
        raise NotImplementedError

    def embed(self, x):
        return self.gain * (x.flatten(1) / 255 - 0.3) @ self.directions + (1 - self.gain)


class Critic(Pixels):
    def codes(self, query_view, key_view):
        return F.normalize(self.embed(query_view), dim=1), F.normalize(self.embed(key_view), dim=1)


@pytest.fixture
def run(tmp_path) -> config.RunConfig:
    sprites = SpritesConfig(train=64, validation=64, test=300)
    return config.RunConfig(
        method="x", folder=str(tmp_path), data=config.DataConfig(sprites=sprites)
    )


def test_the_probe_measures_features_and_codes_on_the_test_split(run):
    found = geometry(Frozen(Critic(), run))
    assert (found["split"], found["images"], found["lidar_images"], found["lidar_views"]) == (
        "test",
        300,
        300,
        8,
    )
    assert found["features"]["dimensions"] == found["codes"]["dimensions"] == 12
    assert "sentence" not in found
    assert 2 < found["features"]["effective_rank"] < 12 and 1 < found["features"]["lidar"] < 12
    for key in (
        "alignment",
        "uniformity",
        "deviation",
    ):  # these depend only on directions, and the codes are the features' directions
        assert found["codes"][key] == pytest.approx(found["features"][key], rel=1e-4)
    assert found == geometry(Frozen(Critic(), run))
    lines = GeometryProbe().sentences(found)
    assert len(lines) == 2 and "of 12" in lines[0] and "LiDAR" in lines[0]
    plain = geometry(Frozen(Pixels(), run))
    assert (
        not isinstance(Pixels(), PairCritic)
        and "codes" not in plain
        and plain["features"] == found["features"]
    )


def test_a_sentence_of_the_probe_names_the_collapse(run):
    found = geometry(Frozen(Critic(gain=0.0), run))
    assert (
        "features collapsed: effective rank 1.0 of 12" in found["sentence"]
        and "codes collapsed" in found["sentence"]
    )
    assert GeometryProbe().sentences(found)[-1].strip() == found["sentence"]


def test_views_that_are_one_picture_have_no_alignment_and_no_lidar(run, monkeypatch):
    monkeypatch.setattr(Sprites, "augmentation", "none")
    found = geometry(Frozen(Critic(), run))
    assert (
        not {"alignment", "lidar"} & (found["features"].keys() | found["codes"].keys())
        and "lidar_views" not in found
    )
    assert {"uniformity", "effective_rank", "deviation"} <= found["features"].keys()
    assert "LiDAR" not in "".join(GeometryProbe().sentences(found))


@pytest.mark.parametrize(
    "name, augment, differ",
    [("mnist", "none", False), ("mnist", "crop", True), ("sprites", "none", True)],
)
def test_views_differ_if_something_makes_them_differ(name, augment, differ):
    assert config.DataConfig(name=name, augment=augment).views_differ is differ


def test_a_line_and_dead_dimensions_are_collapses_and_two_used_dimensions_are_none():
    assert collapse(layout(normal(500, 2))) == ""  # two dimensions, both in use
    assert "effective rank 1.0 of 64" in collapse(layout(normal(500, 1) @ normal(1, 64, seed=1)))
    assert "48 of 64 dimensions" in collapse(layout(F.pad(normal(500, 16), (0, 48))))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_have_no_verdict_on_collapse(bad):
    x = normal(500, 8)
    for key in ("effective_rank", "deviation", "dead_dimensions"):
        with pytest.raises(Unmeasurable, match=f"^geometry: {key}"):
            collapse(layout(x) | {key: bad})
    x[3, 1] = bad
    with pytest.raises(Unmeasurable, match="1 of 500 images"):
        layout(x)


def test_lidar_divides_the_scatter_of_views_by_its_degrees_of_freedom():
    """Images differ in one direction and views in all directions. If delta is not small compared
    with S_w, the ratio of eigenvalues shows whether the divisor is n (v - 1) or n v.
    """
    views = normal(200, 1, 2) * torch.tensor([1.0, 0.2]) + 0.5 * normal(200, 2, 2, seed=1)
    x = views.double().numpy()
    between = np.cov(x.mean(1).T)
    values = {}
    for divisor in (200 * 1, 200 * 2):
        scatter = (x - x.mean(1, keepdims=True)).reshape(-1, 2)
        within = scatter.T @ scatter / divisor + np.eye(2)
        values[divisor] = math.exp(entropy(scipy.linalg.eigh(between, within, eigvals_only=True)))
    assert abs(values[200] - values[400]) > 1e-3
    assert lidar(views, delta=1.0) == pytest.approx(values[200], rel=1e-5)


@pytest.mark.parametrize(
    "dimensions, rank, collapsed",
    [(1, 1.0, False), (2, 1.4, True), (2, 1.6, False), (3, 1.9, True), (64, 1.9, True)],
)
def test_a_rank_that_few_dimensions_can_not_pass_is_no_collapse(dimensions, rank, collapsed):
    space = {"dimensions": dimensions, "effective_rank": rank, "deviation": 0.9}
    said = collapse(space | {"dead_dimensions": 0.0})
    assert said.startswith("collapsed") == collapsed
