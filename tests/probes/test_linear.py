"""The linear probe against scikit-learn's numbers on the same split at the same strength, its
choice of the strength, and very small training splits.
"""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix

from core.errors import Unmeasurable
from core.information.standardise import mean_and_deviation
from core.randomness import KeyedRNG
from core.run.features import Features
from probes.labels import logistic
from probes.labels.knn import PRESETS, KNNProbe, knn
from probes.labels.linear import STRENGTHS, LinearProbe, confusion, linear
from probes.labels.reading import Reading
from probes.latents.disentanglement import DisentanglementProbe, disentanglement


def split(n: int, d: int, classes: int, seed: int, spread: float = 0.5) -> Features:
    """Overlapping classes after a ReLU; every class occurs if n is large enough."""
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(99)) * spread
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    y = y[torch.randperm(n, generator=g)]
    x = torch.relu(centres[y] + torch.randn(n, d, generator=g))
    return Features(x, y[:, None], (("class", classes),))


def peer(train: Features, test: Features, strength: float) -> tuple[float, float]:
    """Top-1 and label information of scikit-learn's optimum in float64."""
    mean, deviation = mean_and_deviation(train.x)
    x, x_test = (((part.x - mean) / deviation).numpy() for part in (train, test))
    y, y_test = train.y[:, 0].numpy(), test.y[:, 0].numpy()
    classes = train.factors[0][1]
    # for two classes scikit-learn penalises the difference of the weights, half of our penalty
    strength = strength / 2 if classes == 2 else strength
    small = x.shape[1] * classes < 700  # if it is fast; lbfgs stops at gradients of 1e-10
    solver = "newton-cholesky" if small else "lbfgs"
    model = LogisticRegression(
        C=1 / (len(x) * strength), solver=solver, tol=1e-12, max_iter=100_000
    ).fit(x, y)
    frequency = (np.bincount(y, minlength=classes) + 1) / (len(y) + classes)
    chosen = model.predict_log_proba(x_test)[np.arange(len(y_test)), y_test]
    return model.score(x_test, y_test), (chosen - np.log(frequency[y_test])).mean()


@pytest.mark.parametrize(
    "n, d, classes, tolerance",
    [
        (20, 64, 4, 1e-6),
        (20, 12, 2, 1e-6),
        (50, 64, 10, 1e-6),
        (50, 512, 5, 1e-6),
        (300, 32, 10, 1e-6),
        (6000, 80, 10, 1e-4),
    ],
)
def test_the_scores_are_scikit_learns(n, d, classes, tolerance):
    """For few images to the last digit, for many images to the digits of a score."""
    train, test = split(n, d, classes, 0, 0.2), split(1000, d, classes, 1, 0.2)
    found = linear(train, test)
    top1, information = peer(train, test, found["lambda/class"])
    assert found["top1"] == found["top1/class"] == pytest.approx(top1, abs=1e-12)
    assert found["information"] == pytest.approx(information, abs=tolerance)
    assert linear(train, test) == found


def noise(n: int, seed: int, classes: int = 5) -> Features:
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n, 1), generator=g)
    return Features(torch.randn(n, 40, generator=g), y, (("class", classes),))


@pytest.mark.parametrize("n", [60, 400, 3000])
def test_the_strength_is_chosen_on_images_that_were_held_out(n):
    """With noise, the fitted images prefer the weakest strength and others the strongest."""
    assert linear(noise(n, 0), noise(300, 1))["lambda/class"] == max(STRENGTHS)


def test_the_held_out_tenth_chooses_by_its_own_cross_entropy():
    train, test = split(1500, 24, 4, 0, 0.01), split(200, 24, 4, 1, 0.01)
    train = train._replace(y=torch.where(train.x[:, :1] > 1, 0, train.y))  # one feature tells
    order = KeyedRNG(3, 0).permutation("linear probe", 1500)
    mean, deviation = mean_and_deviation(train.x)
    x, y = ((train.x - mean) / deviation)[order].numpy(), train.y[order, 0].numpy()
    losses = []
    for strength in STRENGTHS:
        model = LogisticRegression(C=1 / (1350 * strength), tol=1e-10, max_iter=10_000)
        model.fit(x[150:], y[150:])
        losses.append(-model.predict_log_proba(x[:150])[np.arange(150), y[:150]].mean())
    assert linear(train, test, seed=3)["lambda/class"] == STRENGTHS[int(np.argmin(losses))]
    assert 0 < np.argmin(losses) < len(STRENGTHS) - 1  # not a choice at the edge of the grid


@pytest.mark.parametrize("n", [40, 3000])
def test_the_test_split_chooses_nothing_and_is_scored(n):
    """One training split; test splits with its signal, with noise, and with permuted labels."""
    train, test = split(n, 24, 4, 0), split(400, 24, 4, 1)
    turned = test._replace(y=(test.y + 1) % 4)
    noisy = test._replace(x=noise(400, 7).x[:, :24])
    found = [linear(train, other) for other in (test, turned, noisy)]
    assert len({scores["lambda/class"] for scores in found}) == 1
    assert found[0]["top1"] > 0.6 and found[1]["top1"] < 0.2 and 0.1 < found[2]["top1"] < 0.4
    assert found[1]["information"] < 0 < found[0]["information"]
    half = [test._replace(x=test.x[part], y=test.y[part]) for part in (slice(200), slice(200, 400))]
    assert found[0]["top1"] == pytest.approx(sum(linear(train, p)["top1"] for p in half) / 2)


def test_a_feature_of_another_scale_changes_nothing():
    """Each feature is scaled by its own deviation, so one that is 1e7 times larger hides no
    other.
    """
    train, test = split(600, 10, 5, 0), split(600, 10, 5, 1)
    scale = torch.tensor([1e4] + [1e-3] * 9)
    plain = linear(train, test)
    for factor in (scale, scale * 1e-30, scale * 1e30):
        found = linear(*(part._replace(x=part.x * factor) for part in (train, test)))
        assert found == pytest.approx(plain, abs=1e-4)
    dead = [
        part._replace(x=torch.cat([part.x, torch.full((600, 3), 1e6), 0 * part.x], 1))
        for part in (train, test)
    ]
    assert linear(*dead) == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("fails", ["float32 raises", "float32 is NaN", "all raise"])
def test_a_failed_eigendecomposition_changes_no_score(monkeypatch, fails):
    """In float32, several releases of torch raise an error or return NaN for dead features."""
    train, test = split(1500, 30, 5, 0), split(300, 30, 5, 1)
    train.x[:, :12] = test.x[:, :12] = 0
    plain, decompose = linear(train, test), torch.linalg.eigh

    def eigh(x):
        if x.dtype == torch.float64 and fails != "all raise":
            return decompose(x)
        if fails == "float32 is NaN":
            return x[0] * math.nan, x * math.nan
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    for part in (None, 30):  # exact fits in float64, and fits in float32
        if part:
            monkeypatch.setattr("probes.labels.linear.SMALL", 0)
        assert linear(train, test) == pytest.approx(plain, abs=2e-4)


@pytest.mark.parametrize(
    "dead, rank, n", [(300, 212, 100), (0, 100, 1000), (511, 1, 300), (0, 3, 50)]
)
def test_dead_and_dependent_features_do_no_harm(dead, rank, n):
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(rank, 512 - dead, generator=g)
    y = torch.arange(n + 200) % 4
    hidden = torch.randn(n + 200, rank, generator=g)
    hidden[:, 0] += 3 * y
    x = torch.cat([hidden @ mix, torch.full((n + 200, dead), 2.5)], 1)
    train, test = (
        Features(x[part], y[part, None], (("class", 4),)) for part in (slice(n), slice(n, None))
    )
    found = linear(train, test)
    top1, information = peer(train, test, found["lambda/class"])
    assert found["top1"] == pytest.approx(top1, abs=0.011)
    assert found["information"] == pytest.approx(information, abs=1e-4)


def test_a_class_that_was_never_seen_gets_its_frequency_and_no_class_is_the_default():
    train, test = split(60, 16, 3, 0), split(300, 16, 3, 1)
    wider = [part._replace(factors=(("class", 7),)) for part in (train, test)]
    found, plain = linear(*wider), linear(train, test)
    assert found["top1"] == plain["top1"] and found["lambda/class"] == plain["lambda/class"]
    assert found["information"] == pytest.approx(plain["information"], abs=1e-12)
    unseen = test._replace(y=torch.full_like(test.y, 5), factors=(("class", 7),))
    nothing = linear(wider[0], unseen)
    assert nothing["top1"] == 0 and nothing["information"] == pytest.approx(0, abs=1e-12)


def test_classes_with_one_training_image_or_none():
    """Classes 4 to 8 have one image each, so the part without the held-out images lacks some."""
    train, test = split(40, 16, 4, 0), split(200, 16, 4, 1)
    train.y[:5, 0] = torch.arange(4, 9)
    train, test = (part._replace(factors=(("class", 12),)) for part in (train, test))
    found = linear(train, test)
    assert found == linear(train, test)
    assert 0.4 < found["top1"] < 1 and math.isfinite(found["information"])


@pytest.mark.parametrize("n", [4, 9, 10, 11, 19])
def test_very_few_images(n):
    found = linear(split(n, 8, 2, 0), split(100, 8, 2, 1))
    top1, information = peer(split(n, 8, 2, 0), split(100, 8, 2, 1), found["lambda/class"])
    assert found["top1"] == pytest.approx(top1)
    assert found["information"] == pytest.approx(information, abs=1e-6)
    assert math.isfinite(linear(split(2, 8, 2, 0), split(100, 8, 2, 1))["information"])


def test_one_class_carries_nothing():
    one = split(50, 8, 1, 0)._replace(factors=(("class", 1),))
    assert linear(one, one)["information"] == pytest.approx(0, abs=1e-12)
    only = split(50, 8, 3, 0)
    found = linear(only._replace(y=torch.full_like(only.y, 2)), only)
    assert found["information"] == pytest.approx(0, abs=1e-12)
    assert found["top1"] == pytest.approx((only.y == 2).double().mean().item())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_features_that_are_not_finite_are_refused(bad, which):
    parts = [split(50, 8, 2, 0), split(50, 8, 2, 1)]
    parts[which].x[7, 3] = bad
    with pytest.raises(Unmeasurable, match="^linear probe, (training|test) images: .* 1 of 50"):
        linear(*parts)


def test_one_image_or_none_are_refused():
    test = split(50, 8, 2, 1)
    for n in (0, 1):
        with pytest.raises(Unmeasurable, match="^linear probe"):
            linear(test._replace(x=test.x[:n], y=test.y[:n]), test)
    with pytest.raises(Unmeasurable, match="test images"):
        linear(test, test._replace(x=test.x[:0], y=test.y[:0]))


def test_an_exact_fit_leaves_nothing_of_the_gradient():
    train = split(60, 30, 5, 0)
    x, y = train.x.double(), train.y[:, 0]
    model = logistic.Logistic(x)
    for strength in STRENGTHS:
        weight, bias = (part[0] for part in model.parameters(model.fit(y, 5, (strength,))))
        share = (x @ weight.T + bias).softmax(1) - torch.nn.functional.one_hot(y, 5)
        assert (share.T @ x / 60 + strength * weight).abs().max() < 1e-13
        assert share.mean(0).abs().max() < 1e-13


@pytest.mark.parametrize("probe", [LinearProbe, KNNProbe, DisentanglementProbe])
def test_a_probe_of_labels_fits_on_train_and_val_and_scores_test(probe):
    """Each split has a label of its own everywhere, so that reading it leaves a trace."""

    class Traced:
        seed, device, asked = 0, torch.device("cpu"), []

        def features(self, split):
            self.asked.append(split)
            generator = torch.Generator().manual_seed(len(split))
            x = torch.randn(240, 3, generator=generator)
            y = (x[:, :2] > 0).long()
            return Features(x, y, (("a", 2), ("b", 2)))

    frozen = Traced()
    found = probe().measure(frozen).numbers
    assert frozen.asked == ["trainval", "test"]
    train, test = frozen.features("trainval"), frozen.features("test")
    expected = {
        LinearProbe: lambda: dict(linear(train, test)),
        KNNProbe: lambda: {  # two classes of each column: 240 images / 2
            name: knn(train, test, *preset) | {"per_class": 120.0}
            for name, preset in PRESETS.items()
        },
        DisentanglementProbe: lambda: disentanglement(train, test),
    }[probe]()
    shares = found.pop("confusion", None)
    assert found == expected and (shares is not None) == (probe is LinearProbe)


def test_confusions_are_those_of_scikit_learn():
    rng = torch.Generator().manual_seed(0)
    read, y = (torch.randint(4, (200,), generator=rng) for _ in range(2))
    y[y == 2] = 1  # no image of class 2
    table = torch.full((200, 4), -9.0).scatter_(1, read[:, None], 0.0).double()
    found = confusion(Reading(table, torch.zeros(4)), y)
    expected = confusion_matrix(y, read, labels=range(4), normalize="true")
    assert torch.allclose(found, torch.from_numpy(expected)) and found[2].sum() == 0
