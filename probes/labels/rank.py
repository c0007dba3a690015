"""How many principal components a linear probe should read, by description length and by
cross-validation.

n = images, D = feature dimensions, r = components, Y = classes.
"""

from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

from core.console import steps_left
from core.errors import Unmeasurable
from core.frozen import Frozen
from core.information.nml import bic
from core.information.standardise import (
    mean_and_deviation,
    require_finite_features,
    require_finite_numbers,
    standardised,
)
from core.information.units import bits
from core.randomness import KeyedRNG
from core.run.features import Features
from probes.labels.linear import readings
from probes.labels.logistic import Logistic
from probes.labels.mdl import prequential
from probes.probe import Found, Numbers, Probe, Value, without_labels
from probes.report import figures

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
WEAK = 1e-6  # penalty of the fit for BIC; it only keeps the weights of separable classes finite
RULES = {"bic": "BIC", "mdl": "online code", "cv": "cross-validation"}


def ranks_of(n: int, dimensions: int) -> list[int]:
    """The numbers of components that are tried: powers of two up to 512, and all components."""
    most = min(n - 1, dimensions)
    return sorted({*(rank for rank in RANKS if rank < most), most})


def principal(train: Features, test: Features) -> tuple[Features, Features]:
    """Both splits in principal components of standardised train, the largest first."""
    mean, deviation = mean_and_deviation(train.x)
    x, x_test = (standardised(part.x, mean, deviation) for part in (train, test))
    covariance = (x.double().T @ x.double()) / len(x)
    basis = torch.linalg.eigh(covariance).eigenvectors.flip(1).float()
    return train._replace(x=x @ basis), test._replace(x=x_test @ basis)


def rank(
    train: Features, test: Features, seed: int = 0, folds: int = 5, orders: int = 1
) -> Numbers:
    """For each r: the length of the training labels by two codes, and the losses by
    cross-validation and on test.

        bic  n CE + k/2 log n,   k = (Y - 1)(r + 1) parameters, CE of the fit to all of train
        mdl  the online code of the `mdl` probe, which a real receiver can read
        cv   n times the mean cross-entropy of held-out images, in `folds` folds

    All three are in nats, summed over factors. The components are those of all training features;
    no labels are used for them. Each rule chooses the r with its least value; test chooses nothing.
    (Exact normalised maximum likelihood of a logistic regression has no known form that can be
    computed; `core.information.nml` has models with a known form.)

    Raises `Unmeasurable` for fewer than 40 training images, a single feature, features that are not
    finite, or if BIC has no finite value.
    """
    for name, features in (("training", train), ("test", test)):
        require_finite_features(features.x, f"rank probe, {name} images")
    n, dimensions = train.x.shape
    if n < 40 or dimensions < 2:
        raise Unmeasurable(f"rank probe: needs 40 images and 2 features, got {n} and {dimensions}")
    read, read_test = principal(train, test)
    ranks, curve = ranks_of(n, dimensions), []
    for place in steps_left(len(ranks), "rank", "ranks"):
        r = ranks[place]
        here, there = (part._replace(x=part.x[:, :r].contiguous()) for part in (read, read_test))
        scores = _read(here, there, seed)
        curve.append(
            {"rank": r, "bic": _bic(here), "cv": _cross_validated(here, seed, folds)}
            | {"mdl": prequential(here, seed, orders)["nats"]}
            | {"test": scores[0], "top1": scores[1]}
        )
    chosen = {}
    for rule in RULES:
        best = min(curve, key=lambda point: point[rule])
        chosen[rule] = {key: best[key] for key in ("rank", "test", "top1")}
    found = {"curve": curve, "chosen": chosen, "images": n, "folds": folds, "orders": orders}
    require_finite_numbers(found, "rank probe")
    return found


def _read(train: Features, test: Features, seed: int) -> tuple[float, float]:
    """Cross-entropy on test in nats an image, summed over factors, and mean accuracy."""
    loss, right = 0.0, []
    for y, reading in zip(test.y.T, readings(train, test, seed), strict=True):
        loss += reading.cross_entropy(y).mean().item()
        right.append(reading.top1(y))
    return loss, sum(right) / len(right)


def _bic(features: Features) -> float:
    n, model, total = len(features.x), Logistic(features.x), 0.0
    for y in features.y.T:
        present = y.unique()
        places = torch.searchsorted(present, y)
        w = model.fit(places, len(present), (WEAK,), rough=1e-6)
        weight, bias = model.parameters(w)
        fit = _cross_entropy(features.x, places, weight[0], bias[0])
        total += bic(fit, (len(present) - 1) * (features.x.shape[1] + 1), n)
    return total


def _cross_entropy(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> float:
    logits = (x @ weight.T + bias).double()
    return torch.nn.functional.cross_entropy(logits, y, reduction="sum").item()


def _cross_validated(features: Features, seed: int, folds: int) -> float:
    """n times the mean held-out cross-entropy, summed over factors."""
    n, total = len(features.x), 0.0
    order = KeyedRNG(seed, 0).permutation("rank folds", n)
    for held in order.tensor_split(folds):
        rest = torch.ones(n, dtype=torch.bool)
        rest[held] = False
        train, test = (
            Features(features.x[part], features.y[part], features.factors) for part in (rest, held)
        )
        total += len(held) * _read(train, test, seed)[0]
    return total


class RankProbe(Probe):
    """The number of principal components that a linear probe should read, by three rules."""

    name, on_request = "rank", True
    summary = "number of components for a linear probe, by BIC, online code and cross-validation"
    columns = ("rank: BIC", "rank: code", "rank: CV")
    options = {"folds": 5, "orders": 1}
    panel = "Description length by rank"
    schema = """
        "curve": [{"rank", "bic", "mdl", "cv" (nats of all training labels, sums over factors),
        "test" (nats an image), "top1"}], "chosen": {"bic" | "mdl" | "cv": {"rank", "test",
        "top1"}}, "images", "folds", "orders" """

    def requires(self, frozen: Frozen) -> str:
        return without_labels(frozen)

    def measure(self, frozen: Frozen, **options: int) -> Found:
        train, test = (frozen.features(split) for split in ("trainval", "test"))
        if not 2 <= options["folds"] <= len(train.x):
            limits = f"2 to {len(train.x):,}"
            raise Unmeasurable(f"rank probe: folds must be {limits}, got {options['folds']}")
        return Found(rank(train, test, frozen.seed, **options))

    def cells(self, numbers: Numbers) -> list[str]:
        return [str(numbers["chosen"][rule]["rank"]) for rule in RULES]

    def values(self, numbers: Numbers) -> list[Value | str]:
        return [Value(numbers["chosen"][rule]["rank"], digits=0) for rule in RULES]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {f"rank/{rule}": numbers["chosen"][rule]["rank"] for rule in RULES}

    def sentences(self, numbers: Numbers) -> list[str]:
        return [
            f"rank of the linear probe by {name}: {numbers['chosen'][rule]['rank']} principal"
            f" components; {numbers['chosen'][rule]['test']:.3f} nats an image and"
            f" {100 * numbers['chosen'][rule]['top1']:.1f} % top-1 on test"
            for rule, name in RULES.items()
        ]

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        path = folder / "rank.png"
        with figures.picture(path, figsize=(7.5, 4.6)) as (_, axes):
            draw_curve(axes, found.numbers)
            figures.legend(axes, "circles: the least value")
        return {"rank": path}

    def draw(self, axes: Axes, entries: list[Any]) -> None:
        for entry in entries:
            x, y = zip(*((p["rank"], p["mdl"]) for p in entry.numbers["curve"]), strict=True)
            kbits = [bits(value) / 1000 for value in y]
            axes.plot(x, kbits, marker=entry.marker, color=entry.colour, label=entry.label)
        axes.set(xscale="log", xlabel="principal components", ylabel="online code, kbit")
        figures.legend(axes)


def draw_curve(axes: Axes, numbers: Numbers) -> None:
    """Each rule's value in kbits by rank, and n times the test loss beside it."""
    ranks = [point["rank"] for point in numbers["curve"]]
    scale = dict.fromkeys(RULES, 1.0) | {"test": float(numbers["images"])}
    for place, (rule, factor) in enumerate(scale.items()):
        y = [bits(point[rule] * factor) / 1000 for point in numbers["curve"]]
        colour = figures.COLOURS[place]
        label = RULES.get(rule, "test loss × training images")
        axes.plot(ranks, y, marker="o", markersize=3, color=colour, label=label)
        if rule in RULES:
            best = min(range(len(y)), key=y.__getitem__)
            look: Any = {"markersize": 10, "markerfacecolor": "none", "color": colour}
            axes.plot(ranks[best], y[best], "o", **look)
    axes.set(xscale="log", xlabel="principal components", ylabel="kbit, all training labels")
    axes.set_title("Components of a linear probe")
