"""Linear probe: multinomial logistic regression on standardised frozen features, by L-BFGS.

n = images, D = feature dimensions, Y = classes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from torch import Tensor

from core.errors import Unmeasurable
from core.frozen import Frozen
from core.information.standardise import (
    mean_and_deviation,
    require_finite_features,
    require_finite_numbers,
    standardised,
)
from core.randomness import KeyedRNG
from core.run.features import Features
from probes.labels.logistic import Logistic
from probes.probe import Entry, Found, Numbers, Probe, Value
from probes.report import figures

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # lambda
FEW = 100  # images, below which every tenth of them is held out once: one tenth would be chance
# relative; strengths a factor of ten apart are told from each other long before they are fitted to
# the last digit
ROUGH = 1e-5
FINE = 1e-6  # relative; of the fit that is scored, far below what a score shows
SMALL = 1_000_000  # images x dimensions x classes; up to it a fit is to the last digit of float64


def linear(train: Features, test: Features, seed: int = 0) -> dict[str, float]:
    """Top-1 and usable label information of every factor ("top1/FACTOR", "information/FACTOR") and
    their means.

    Usable information is H(Y) - CE in nats (Xu et al. 2020): H(Y) is the cross-entropy on test of
    the train split's class frequencies (one image added to each class), CE that of the probe, so it
    is what a linear reader gains from the features. A class that train does not hold is given
    nothing but its frequency. lambda is chosen by CE on a held-out tenth of train, of few images on
    each tenth in turn, and the probe refitted on all of it; the test split is read once.

    Raises `Unmeasurable` for features that are not finite, and for fewer than two training images.
    """
    for name, features in (("training", train), ("test", test)):
        require_finite_features(features.x, f"linear probe, {name} images")
    if len(train.x) < 2:
        raise Unmeasurable("linear probe: it takes two training images or more, got 1")
    order = KeyedRNG(seed, 0).permutation("linear probe", len(train.x))
    x, x_test = _standardised(train, test, order)
    labels, model = train.y[order], Logistic(x)
    top1, information, chosen = {}, {}, {}
    for column, (factor, classes) in enumerate(train.factors):
        y, y_test = labels[:, column], test.y[:, column]
        best, start = _strength(model, y, classes)
        chosen[factor] = STRENGTHS[best]
        reader = _fit(model, y, classes, STRENGTHS[best : best + 1], slice(None), FINE, start)[0]
        found = reader.log_probabilities(x_test)
        entropy = -_frequency(y, classes).log()[y_test].mean().item()
        top1[factor] = (found.argmax(1) == y_test).double().mean().item()
        information[factor] = entropy - F.nll_loss(found, y_test).item()
    scores = {
        "top1": sum(top1.values()) / len(top1),
        "information": sum(information.values()) / len(information),
    }
    scores |= {f"top1/{factor}": value for factor, value in top1.items()} | {
        f"information/{factor}": value for factor, value in information.items()
    }
    scores |= {f"lambda/{factor}": value for factor, value in chosen.items()}
    require_finite_numbers(scores, "linear probe")
    return scores


class Reader(NamedTuple):
    """A fitted probe: a linear map to the classes that it was fitted to, and all class
    frequencies.
    """

    weight: Tensor  # [P, D]
    bias: Tensor  # [P]
    present: Tensor  # bool [Y], P of them
    frequency: Tensor  # float64 [Y]
    parameters: Tensor  # [P, D + 1], where another fit may start

    def log_probabilities(self, x: Tensor) -> Tensor:
        """float64 [n, Y]; classes that were never seen share what their frequencies are, whatever
        the image.
        """
        made = self.frequency.log().repeat(len(x), 1)
        seen = F.log_softmax(F.linear(x, self.weight, self.bias).double(), 1)
        made[:, self.present] = seen + self.frequency[self.present].sum().log()
        return made


def _fit(
    model: Logistic,
    y: Tensor,
    classes: int,
    strengths: tuple[float, ...],
    rows: slice | Tensor,
    rough: float,
    start: Tensor | None = None,
) -> list[Reader]:
    """A reader for each strength, from these rows alone."""
    frequency = _frequency(y[rows], classes)
    present = torch.bincount(y[rows], minlength=classes) > 0
    places = present.cumsum(0) - 1  # of the classes among those that are present
    count = int(present.sum())
    if start is not None and start.shape[1] != count:
        start = None
    w = model.fit(places[y].clamp(min=0), count, strengths, rows, start, rough)
    each = zip(*model.parameters(w), w, strict=True)
    return [Reader(weight, bias, present, frequency, made) for weight, bias, made in each]


def _strength(model: Logistic, y: Tensor, classes: int) -> tuple[int, Tensor | None]:
    """The number of the strength with the least CE on images that were held out, and where the
    refit may start.
    """
    n = len(y)
    tenth = max(1, n // 10)
    # of the shuffled images, so that neither part is copied again for each factor
    splits: list[tuple[slice | Tensor, slice | Tensor]] = [(slice(tenth), slice(tenth, None))]
    if n < FEW:
        places = torch.arange(n)
        splits = [
            (held, places[~torch.isin(places, held)])
            for held in places.tensor_split(10)
            if len(held)
        ]
    losses = torch.zeros(len(STRENGTHS), dtype=torch.float64)
    for held, rest in splits:
        readers = _fit(model, y, classes, STRENGTHS, rest, ROUGH)
        for number, reader in enumerate(readers):
            found = reader.log_probabilities(model.x[held])
            losses[number] += F.nll_loss(found, y[held], reduction="sum")
    if not losses.isfinite().all():
        raise Unmeasurable("linear probe: no fit of it gives held-out images a finite probability")
    best = int(losses.argmin())
    return best, readers[best].parameters[None]


def _standardised(train: Features, test: Features, order: Tensor) -> tuple[Tensor, Tensor]:
    """Features by the training split's mean and deviation, the training images in that order. Of a
    small problem in float64, and in no more dimensions than there are training images.
    """
    mean, deviation = mean_and_deviation(train.x)
    dimensions = min(train.x.shape)
    classes = max(classes for _, classes in train.factors)
    small = len(train.x) * dimensions * classes <= SMALL
    x, x_test = (
        standardised(features, mean, deviation, torch.float64 if small else torch.float32)
        for features in (train.x[order], test.x)
    )
    if small and dimensions < x.shape[1]:
        span = torch.linalg.qr(x.T).Q  # the penalty keeps weights in the span of the images
        return x @ span, x_test @ span
    return x, x_test


def _frequency(y: Tensor, classes: int) -> Tensor:
    """Frequencies [Y] of classes, one image added to each so that none has probability zero."""
    return (torch.bincount(y, minlength=classes).double() + 1) / (len(y) + classes)


class LinearProbe(Probe):
    """Logistic regression on frozen features: accuracy and usable label information."""

    name = "linear"
    summary = "logistic regression on standardised features: top-1, and H(Y) - CE in nats"
    columns = ("linear %", "label nats")
    panel = "Labels: linear (solid), kNN (pale)"
    schema = """
        "top1", "information" (H(Y) - CE, nats), "top1/FACTOR", "information/FACTOR",
        "lambda/FACTOR" """

    def measure(self, frozen: Frozen, **options: int) -> Found:
        train, test = (frozen.features(split) for split in ("trainval", "test"))
        return Found(dict(linear(train, test, frozen.seed)))

    def cells(self, numbers: Numbers) -> list[str]:
        return [f"{100 * numbers['top1']:.1f}", f"{numbers['information']:.2f}"]

    def values(self, numbers: Numbers) -> list[Value | str]:
        return [Value(100 * numbers["top1"], digits=1), Value(numbers["information"])]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {f"linear/{key}": value for key, value in numbers.items()}

    def sentences(self, numbers: Numbers) -> list[str]:
        return [
            f"linear probe: {100 * numbers['top1']:.1f} % top-1 on test, mean over label columns;"
            f" {numbers['information']:.2f} nats of label information"
        ]

    def draw(self, axes: Axes, entries: list[Entry]) -> None:
        figures.draw_accuracies(axes, entries, lambda numbers: numbers["top1"], solid=True)
