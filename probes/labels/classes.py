"""Accuracy of the linear probe for each class, and the classes that it confuses.

n = images, D = feature dimensions, Y = classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.frozen import Frozen
from core.information.standardise import mean_and_deviation, standardised
from core.run.features import Features
from probes.labels.linear import linear
from probes.labels.logistic import Logistic
from probes.labels.reading import confusion_counts
from probes.probe import Found, Numbers, Probe, Value, without_labels
from probes.report import figures

LARGEST = 200  # classes of a confusion matrix in a report
NAMED = 40  # classes whose names a figure shows


def predictions(train: Features, test: Features, column: int, strength: float) -> Tensor:
    """Classes [n] that a logistic regression with the penalty `strength` predicts for test."""
    y, (_, classes) = train.y[:, column], train.factors[column]
    present = torch.bincount(y, minlength=classes).nonzero()[:, 0]
    if len(present) == 1:
        return present.repeat(len(test.x))
    mean, deviation = mean_and_deviation(train.x)
    x, x_test = (standardised(part.x, mean, deviation) for part in (train, test))
    place = torch.zeros(classes, dtype=torch.int64)
    place[present] = torch.arange(len(present))
    model = Logistic(x)
    weight, bias = model.parameters(model.fit(place[y], len(present), (strength,)))
    return present[(x_test @ weight[0].T + bias[0]).argmax(1)]


def by_class(train: Features, test: Features, seed: int = 0) -> Numbers:
    """For each factor: the accuracy and the number of test images of each class, the mean accuracy
    over classes (balanced accuracy) and, for at most `LARGEST` classes, the confusion counts. The
    penalty is that of the linear probe.
    """
    chosen = linear(train, test, seed)
    factors = {}
    for column, (factor, classes) in enumerate(train.factors):
        predicted = predictions(train, test, column, chosen[f"lambda/{factor}"])
        counts = confusion_counts(predicted, test.y[:, column], classes)
        total, right = counts.sum(1), counts.diagonal()
        seen = (total > 0).nonzero()[:, 0]
        accuracy = (right[seen].double() / total[seen]).tolist()
        factors[factor] = {
            "balanced": sum(accuracy) / len(accuracy),
            "classes": seen.tolist(),
            "accuracy": accuracy,
            "images": total[seen].tolist(),
            "confusion": counts.tolist() if classes <= LARGEST else [],
        }
    mean = sum(part["balanced"] for part in factors.values()) / len(factors)
    return {"balanced": mean, "factor": factors}


class ClassesProbe(Probe):
    """Per-class accuracy and confusion of the linear probe."""

    name, on_request = "classes", True
    summary = "accuracy of each class and a confusion matrix, by the linear probe"
    columns = ("balanced %", "worst class %")
    schema = """
        "balanced" (mean accuracy over classes), "factor": {FACTOR: {"balanced", "classes",
        "accuracy" and "images" of each of them, "confusion" [true][predicted]}} """

    def requires(self, frozen: Frozen) -> str:
        return without_labels(frozen)

    def measure(self, frozen: Frozen, **options: int) -> Found:
        train, test = (frozen.features(split) for split in ("trainval", "test"))
        names = frozen.source("test").identity.classes
        return Found(by_class(train, test, frozen.seed), {"names": names})

    def cells(self, numbers: Numbers) -> list[str]:
        return [f"{100 * numbers['balanced']:.1f}", f"{100 * _worst(numbers):.1f}"]

    def values(self, numbers: Numbers) -> list[Value | str]:
        return [Value(100 * x, digits=1) for x in (numbers["balanced"], _worst(numbers))]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {"classes/balanced": numbers["balanced"], "classes/worst": _worst(numbers)}

    def sentences(self, numbers: Numbers) -> list[str]:
        lines = []
        for factor, part in numbers["factor"].items():
            low = min(range(len(part["accuracy"])), key=lambda i: part["accuracy"][i])
            lines.append(
                f"classes of {factor}: balanced accuracy {100 * part['balanced']:.1f} %; the"
                f" worst class is {part['classes'][low]}, with an accuracy of"
                f" {100 * part['accuracy'][low]:.1f} % on its {part['images'][low]:,} images"
            )
        return lines

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        """A confusion matrix of each factor, in shares of the true class."""
        made, first = {}, 0
        for factor, part in found.numbers["factor"].items():
            classes = frozen.source("test").factors[factor]
            names = list(found.arrays["names"][first : first + classes])
            first += classes
            if part["confusion"] and classes > 1:
                named = names if len(names) == classes else list(map(str, range(classes)))
                key = "confusion" if len(found.numbers["factor"]) == 1 else f"confusion_{factor}"
                path = folder / f"{_plain(key)}.png"
                made[key] = draw_confusion(np.array(part["confusion"]), named, factor, path)
        return made


def draw_confusion(counts: Any, names: list[str], factor: str, path: Path) -> Path:
    """A matrix [Y, Y] of counts, drawn as shares of each row; for few classes, with numbers."""
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(14.0, 2.8 + 0.34 * min(classes, NAMED))
    with figures.picture(path, figsize=(side + 1.2, side)) as (figure, axes):
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(image, label="share of the true class", shrink=0.8)
        if classes <= NAMED:
            shown = [figures.drawable(name[:24]) for name in names]
            axes.set_xticks(range(classes), shown, rotation=90, fontsize=8)
            axes.set_yticks(range(classes), shown, fontsize=8)
        if classes <= 20:
            for (row, column), share in np.ndenumerate(shares):
                if share >= 0.005:
                    colour = "white" if share > 0.5 else figures.BLACK
                    text = f"{100 * share:.0f}"
                    look = {"ha": "center", "va": "center", "fontsize": 7, "color": colour}
                    axes.text(column, row, text, **look)
        axes.set(xlabel=f"predicted {factor}", ylabel=f"true {factor}")
        axes.set_title(f"Confusion of the linear probe, % of test, {factor}", wrap=True)
    return path


def _worst(numbers: Numbers) -> float:
    return float(min(min(part["accuracy"]) for part in numbers["factor"].values()))


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
