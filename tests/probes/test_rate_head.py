"""The rate head against closed forms: contents whose entropy and whose pixels' conditional entropy
are known exactly.
"""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import nn

from core.frozen import Frozen
from core.method import locate
from core.networks.likelihoods import Likelihood
from core.randomness import KeyedRNG
from core.run import config
from probes.latents import rate_head
from probes.latents.rate_head import Seen, measure, measure_curve, train_heads
from probes.report import figures

CONTENTS, SHAPE = 4, (1, 4, 4)
GREY = torch.where(
    KeyedRNG(3, 0).uniform("pattern", CONTENTS, *SHAPE) < 0.5, 0.05, 0.9
)  # P(pixel = 1 | content)


def images(n: int, name: str, known: bool = True) -> Seen:
    """n images of equally likely contents; the features either determine the content or are
    useless. Pixels are Bernoulli variables and are drawn when they are read.
    """
    content = KeyedRNG(0, 0).fork(name).integers("content", CONTENTS, n)
    return Seen(F.one_hot(content, CONTENTS).float() if known else torch.ones(n, 3), GREY[content])


def entropies() -> tuple[float, float, float]:
    """H(X), H(X | content) and the sum of the pixels' own entropies, in nats, by enumeration of the
    2^16 images.
    """
    p = GREY.double().flatten(1)
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=16)), dtype=torch.float64)
    joint = every @ p.log().T + (1 - every) @ (1 - p).log().T - math.log(CONTENTS)
    whole = joint.logsumexp(1)
    return (
        -(whole.exp() * whole).sum().item(),
        _binary(p).sum(1).mean().item(),
        _binary(p.mean(0)).sum().item(),
    )


def _binary(p: torch.Tensor) -> torch.Tensor:
    return -(p * p.log() + (1 - p) * (1 - p).log())


@pytest.fixture(autouse=True, scope="module")
def _narrow():
    """Narrow heads and codes, which are enough for images of 16 pixels, and so need fewer steps."""
    small = {"WIDTH": 64, "LATENT": 4}
    small |= {"NOTHING": (60, 0.3), "FIRST": (300, 1.5e-2), "NEXT": (60, 1e-2)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in small.items():
            patch.setattr(rate_head, name, value)
        yield


@pytest.fixture(scope="module")
def curve() -> dict:
    splits = [images(n, name) for n, name in ((2000, "train"), (500, "val"), (4000, "test"))]
    return measure_curve(*splits, Likelihood("bernoulli", 1), seed=0, betas=(0.1, 1.0, 3.0, 30.0))


def error(entry: dict) -> float:
    return (entry["high"] - entry["value"]) / 1.96


def test_a_cheap_rate_approaches_both_entropies(
    curve,
):
    """R = I + KL(q(z) || p(z)), and the mean of Gaussians that hardly overlap is not Gaussian. So R
    exceeds log M when D is near its minimum.
    """
    _, conditional, _ = entropies()
    cheap, fair = curve["points"][:2]
    assert cheap["distortion"]["value"] == pytest.approx(
        conditional, abs=0.05 + 3 * error(cheap["distortion"])
    )
    assert math.log(CONTENTS) < cheap["rate"]["value"] < math.log(CONTENTS) + 2
    assert fair["rate"]["value"] == pytest.approx(math.log(CONTENTS), abs=0.5)


class Parabolas(nn.Module):
    """R = t^2 and D = (1 - t)^2 of every image."""

    def __init__(self, t: float):
        super().__init__()
        self.t, self.likelihood = nn.Parameter(torch.tensor(t)), Likelihood("bernoulli", 1)

    def forward(self, features, x, rng):
        each = torch.ones(len(x))
        return each * self.t**2, each * (1 - self.t) ** 2


@pytest.mark.parametrize("beta", [0.5, 2.0])
@pytest.mark.parametrize("begin", [0.0, 1.0])
def test_a_nat_of_rate_costs_beta(beta, begin):
    """D + beta R of the parabolas is least at t = 1 / (1 + beta). The weights that are kept are the
    best on val on the way, so one training begins below this t and one above it.
    """
    train, val, t = images(64, "train"), images(64, "val"), 1 / (1 + beta)
    found = rate_head.fit(Parabolas(begin), train, val, beta, 0, 0, 200, 0.03)
    assert found.head.t.item() == pytest.approx(t, abs=5e-3)
    assert found.rate == pytest.approx(found.head.t.item() ** 2)
    assert found.cost(beta) == pytest.approx((1 - t) ** 2 + beta * t**2, abs=1e-3)


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_the_cost_of_two_contents_equals_quadrature(beta):
    """Two contents with opposite pixels: by symmetry, the best head is q(z|h) = N(+-a, s^2) in one
    dimension. The best decoder with independent pixels mixes the two patterns with the weights
    p(content|z). D by Gauss-Hermite quadrature, the minimum over a and s by scipy.
    """
    pattern = torch.cat([GREY[:1], 1 - GREY[:1]])
    p = pattern[0].double().flatten().numpy()
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)

    def cost(log_a: float, log_s: float) -> tuple[float, float]:
        a, s = math.exp(log_a), math.exp(log_s)
        mixed = 1 / (
            1 + np.exp(-2 * a * (a + s * nodes) / s**2)
        )  # p(content|z) at the nodes of its own Gaussian
        pixels = mixed[:, None] * p + (1 - mixed[:, None]) * (1 - p)
        distortion = -(p * np.log(pixels) + (1 - p) * np.log(1 - pixels)).sum(1)
        return (a**2 + s**2 - 1) / 2 - log_s, float(weights @ distortion / weights.sum())

    def objective(at: np.ndarray) -> float:
        rate, distortion = cost(*at)
        return distortion + beta * rate

    best = minimize(objective, np.array([0.0, -1.0]), method="Nelder-Mead")
    splits = []
    for n, name in ((2000, "train"), (500, "val"), (8000, "test")):
        content = KeyedRNG(0, 0).fork(name).integers("content", 2, n)
        splits.append(Seen(F.one_hot(content, 2).float(), pattern[content]))
    point = measure_curve(*splits, Likelihood("bernoulli", 1), betas=(beta,))["points"][0]
    found = point["distortion"]["value"] + beta * point["rate"]["value"]
    spread = 3 * error(point["nelbo"])
    assert best.fun - spread < found < best.fun + 0.05 + spread
    for key, value in zip(("rate", "distortion"), cost(*best.x), strict=True):
        assert point[key]["value"] == pytest.approx(value, abs=0.1 + spread)


def test_rate_and_distortion_never_undercut_the_entropy_of_the_images(curve):
    whole, conditional, _ = entropies()
    for point in [curve["nothing"], *curve["points"]]:
        assert point["nelbo"]["value"] >= whole - 3 * error(point["nelbo"])
        assert point["rate"]["value"] >= whole - point["distortion"]["value"] - 3 * error(
            point["nelbo"]
        )
        assert point["distortion"]["value"] >= conditional - 3 * error(point["distortion"])
        assert point["bits_per_dim"] == pytest.approx(point["nelbo"]["value"] / 16 / math.log(2))


def test_without_a_code_the_distortion_is_the_sum_of_the_pixels_entropies(curve):
    _, _, marginal = entropies()
    nothing = curve["nothing"]
    assert nothing["rate"] == {"value": 0, "low": 0, "high": 0}
    assert nothing["distortion"]["value"] == pytest.approx(
        marginal, abs=0.05 + 3 * error(nothing["distortion"])
    )


def test_the_curve_falls_and_is_convex(curve):
    points = [curve["nothing"], *reversed(curve["points"])]
    r, d = ([point[key]["value"] for point in points] for key in ("rate", "distortion"))
    slack = 3 * max(error(point["distortion"]) for point in points)
    assert all(a <= b + 0.02 for a, b in itertools.pairwise(r))
    assert all(a >= b - slack for a, b in itertools.pairwise(d))
    for (r0, d0), (r1, d1), (r2, d2) in zip(
        *(list(zip(r, d, strict=True))[i:] for i in range(3)), strict=False
    ):
        share = (r1 - r0) / max(r2 - r0, 1e-9)
        assert d1 <= (1 - share) * d0 + share * d2 + slack


def test_useless_features_do_not_lower_the_distortion(monkeypatch):
    monkeypatch.setattr(rate_head, "FIRST", (150, 1.5e-2))
    splits = [
        images(n, name, known=False) for n, name in ((2000, "train"), (500, "val"), (4000, "test"))
    ]
    found = measure_curve(*splits, Likelihood("bernoulli", 1), seed=0, betas=(0.5, 2.0))
    _, _, marginal = entropies()
    for point in found["points"]:
        assert point["rate"]["value"] == pytest.approx(0, abs=0.02)
        assert point["distortion"]["value"] == pytest.approx(
            marginal, abs=0.1 + 3 * error(point["distortion"])
        )


@pytest.fixture
def short(monkeypatch):
    for name in ("NOTHING", "FIRST", "NEXT"):
        monkeypatch.setattr(rate_head, name, (6, 1e-2))


@pytest.mark.parametrize("name", ["logistic", "gaussian", "bernoulli"])
def test_the_same_seed_gives_the_same_numbers_and_every_likelihood_fits(name, short):
    splits = [images(200, split) for split in ("train", "val", "test")]
    with torch.random.fork_rng():
        first, again, other = (
            measure_curve(*splits, Likelihood(name, 1), seed=s, betas=(1.0, 8.0)) for s in (0, 0, 1)
        )
    assert first == again != other
    assert [point["beta"] for point in first["points"]] == [1.0, 8.0]
    assert (first["images"], first["train_images"], first["image_values"]) == (200, 200, 16)


def test_test_images_change_no_weight(short, monkeypatch):
    reading, weights = rate_head.measure, []

    def spy(head, seen, seed, purpose):
        if purpose == "rate head, test":
            weights[-1].append({key: value.clone() for key, value in head.state_dict().items()})
        return reading(head, seen, seed, purpose)

    monkeypatch.setattr(rate_head, "measure", spy)
    train, val, test = (images(200, split) for split in ("train", "val", "test"))
    reports = []
    for seen in (test, Seen(test.features.flip(1) + 1, 1 - test.images)):
        weights.append([])
        reports.append(measure_curve(train, val, seen, Likelihood("logistic", 1), betas=(1.0, 8.0)))
    assert reports[0] != reports[1]
    assert len(weights[0]) == len(weights[1]) == 3
    for one, two in zip(*weights, strict=True):
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_no_point_costs_more_than_another_head_or_nothing_on_val(short):
    train, val = images(200, "train"), images(200, "val")
    betas = (0.5, 2.0, 8.0, 500.0)
    nothing, heads = train_heads(train, val, Likelihood("logistic", 1), 0, betas)
    costs = [
        [part.mean().item() for part in measure(head, val, 0, "rate head, val")]
        for head in (nothing, *heads)
    ]
    for beta, (r, d) in zip(betas, costs[1:], strict=True):
        assert all(d + beta * r <= other + beta * rate + 1e-3 for rate, other in costs)


def test_if_all_heads_diverge_the_constant_decoder_remains(short):
    splits = [images(200, name) for name in ("train", "val", "test")]
    splits[0].features[0] = math.inf
    found = measure_curve(*splits, Likelihood("logistic", 1), betas=(1.0, 8.0))
    assert [point["nelbo"] for point in found["points"]] == [found["nothing"]["nelbo"]] * 2


def test_a_checkpoint_with_any_likelihood_has_a_curve(short, tmp_path):
    small = [
        "data.sprites.train=120",
        "data.sprites.validation=60",
        "data.sprites.test=80",
        f"folder={tmp_path}",
    ]
    for name, more in (
        ("simclr_sprites", []),
        ("beta_vae_sprites", ["model.width=4", "model.likelihood=bernoulli"]),
    ):
        run = config.read(Path(__file__).parents[2] / f"configs/{name}.yaml", [*small, *more])
        method = locate(run.method)(run.model, (3, 32, 32)).requires_grad_(False)
        found = rate_head.rate_head(Frozen(method, run))
        assert (found["train_images"], found["images"], found["image_values"]) == (120, 80, 3072)
        assert [point["beta"] for point in found["points"]] == list(rate_head.BETAS)
        for point in (found["nothing"], *found["points"]):
            assert all(
                point[key]["low"] <= point[key]["value"] <= point[key]["high"]
                for key in ("rate", "distortion", "nelbo")
            )
            assert point["nelbo"]["value"] == pytest.approx(
                point["rate"]["value"] + point["distortion"]["value"], rel=1e-5
            )
        said = rate_head.RateHeadProbe().sentences(found)
        assert "no code 0.00 /" in said[-1] and "β 625" in said[-1]


def test_betas_must_ascend():
    split = images(10, "train")
    with pytest.raises(ValueError, match="^betas"):
        measure_curve(split, split, split, Likelihood("bernoulli", 1), betas=(2.0, 1.0))


def test_the_hull_leaves_out_points_above_a_mixture_of_others():
    points = [(0.0, 10.0), (1.0, 9.0), (2.0, 4.0), (3.0, 5.0), (4.0, 3.0), (5.0, 3.5)]
    assert figures.lower_hull(points) == [(0.0, 10.0), (2.0, 4.0), (4.0, 3.0)]


def test_the_picture_shows_several_checkpoints(curve, tmp_path):
    figures.head_curves([("a", curve), ("b", curve)], tmp_path / "rd.png")
    assert (tmp_path / "rd.png").stat().st_size > 1000
