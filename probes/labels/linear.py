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
from core.transfer import near
from probes.labels.logistic import Logistic
from probes.labels.reading import Reading, confusion_counts, frequency
from probes.probe import Chart, Entry, Found, Numbers, Probe, Value, without_labels
from probes.report import figures
from probes.report.page import class_charts

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # lambda
FEW = 100  # images; with fewer, each tenth is held out in turn, because one tenth is too small
ROUGH = 1e-5  # relative tolerance of the fits that choose lambda; lambdas differ by factors of 10
SHOWN = 40  # classes; for a factor with more classes, confusions are not kept
FINE = 1e-6  # relative tolerance of the final fit, far below what a score shows
SMALL = 1_000_000  # images x dimensions x classes; up to this size, fits are exact, in float64


def linear(train: Features, test: Features, seed: int = 0) -> dict[str, float]:
    """Top-1 and usable label information of every factor ("top1/FACTOR", "information/FACTOR") and
    their means.

    Usable information is H(Y) - CE in nats (Xu et al. 2020). H(Y) is the cross-entropy on test of
    the class frequencies of train (one image is added to each class). CE is the cross-entropy of
    the probe. So the difference is what a linear classifier gains from the features. For a class
    without training images, the predicted probability is the class frequency. lambda is chosen by
    CE on a held-out tenth of train (with fewer than 100 images, on each tenth in turn). Then the
    probe is fitted to all of train. Nothing is chosen on test.

    Raises `Unmeasurable` for features that are not finite, and for fewer than two training images.
    """
    return scores(fitted_readings(train, test, seed), train, test)


def scores(
    fitted: list[tuple[Reading, float]], train: Features, test: Features
) -> dict[str, float]:
    """The numbers of `linear`, from the predictions for every factor."""
    top1, information, chosen = {}, {}, {}
    for column, (factor, (reading, strength)) in enumerate(
        zip(dict(train.factors), fitted, strict=True)
    ):
        y = test.y[:, column]
        chosen[factor], top1[factor] = strength, reading.top1(y)
        entropy = -reading.log_frequency[y].mean().item()
        information[factor] = entropy - reading.cross_entropy(y).mean().item()
    found = {"top1": top1, "information": information, "lambda": chosen}
    made = {key: sum(found[key].values()) / len(chosen) for key in ("top1", "information")}
    for key, values in found.items():
        made |= {f"{key}/{factor}": value for factor, value in values.items()}
    require_finite_numbers(made, "linear probe")
    return made


def confusion(reading: Reading, y: Tensor) -> Tensor:
    """How often images of class i are read as class j: shares [Y, Y] whose rows sum to 1, or to 0
    for a class without images. float64.
    """
    classes = reading.log_probabilities.shape[1]
    found = reading.log_probabilities.argmax(1)
    counts = confusion_counts(found, y, classes)
    return counts / counts.sum(1, keepdim=True).clamp(min=1).double()


def readings(train: Features, test: Features, seed: int = 0) -> list[Reading]:
    """Predictions of the linear probe for every factor; labels of test are not read."""
    return [reading for reading, _ in fitted_readings(train, test, seed)]


def fitted_readings(train: Features, test: Features, seed: int) -> list[tuple[Reading, float]]:
    """Predictions and lambda of every factor. Raises what `linear` raises."""
    for name, features in (("training", train), ("test", test)):
        require_finite_features(features.x, f"linear probe, {name} images")
    if len(train.x) < 2:
        raise Unmeasurable("linear probe: needs two training images or more, got 1")
    order = KeyedRNG(seed, 0).permutation("linear probe", len(train.x))
    x, x_test = _standardised(train, test, order)
    labels, model, made = train.y[order], Logistic(x), []
    for column, (_, classes) in enumerate(train.factors):
        y = labels[:, column]
        best, start = _strength(model, y, classes)
        strength = STRENGTHS[best : best + 1]
        reader = _fit(model, y, classes, strength, slice(None), FINE, start)[0]
        reading = Reading(reader.log_probabilities(x_test), reader.frequency.log())
        made.append((reading, strength[0]))
    return made


class Reader(NamedTuple):
    """A fitted probe: a linear map to the classes that occur in its training images, and the
    frequencies of all classes.
    """

    weight: Tensor  # [P, D]
    bias: Tensor  # [P]
    present: Tensor  # bool [Y], true for P classes
    frequency: Tensor  # float64 [Y]
    parameters: Tensor  # [P, D + 1], from which another fit may start

    def log_probabilities(self, x: Tensor) -> Tensor:
        """float64 [n, Y]; a class without training images gets its frequency as probability."""
        made = self.frequency.log().repeat(len(x), 1)
        seen = F.log_softmax(F.linear(x, self.weight, self.bias).double(), 1)
        made[:, self.present] = seen + self.frequency[self.present].sum().log()
        return made


def fitted_reader(x: Tensor, y: Tensor, classes: int) -> Reader:
    """A reader for standardised images x [n, D] in random order, with the penalty that the linear
    probe would choose.
    """
    model = Logistic(x)
    best, start = _strength(model, y, classes)
    return _fit(model, y, classes, STRENGTHS[best : best + 1], slice(None), FINE, start)[0]


def _fit(
    model: Logistic,
    y: Tensor,
    classes: int,
    strengths: tuple[float, ...],
    rows: slice | Tensor,
    rough: float,
    start: Tensor | None = None,
) -> list[Reader]:
    """A reader for each strength, fitted to these rows alone."""
    counted = frequency(y[rows], classes)
    present = torch.bincount(y[rows], minlength=classes) > 0
    places = present.cumsum(0) - 1  # new numbers for the classes that occur
    count = int(present.sum())
    if start is not None and start.shape[1] != count:
        start = None
    w = model.fit(places[y].clamp(min=0), count, strengths, rows, start, rough)
    each = zip(*model.parameters(w), w, strict=True)
    return [Reader(weight, bias, present, counted, made) for weight, bias, made in each]


def _strength(model: Logistic, y: Tensor, classes: int) -> tuple[int, Tensor | None]:
    """The index of the strength with the least CE on held-out images, and a start for the refit."""
    n = len(y)
    tenth = max(1, n // 10)
    # images are shuffled already, so slices are enough, and no part is copied for each factor
    splits: list[tuple[slice | Tensor, slice | Tensor]] = [(slice(tenth), slice(tenth, None))]
    if n < FEW:
        places = torch.arange(n)
        tenths = [held for held in places.tensor_split(10) if len(held)]
        splits = [(held, places[~torch.isin(places, held)]) for held in tenths]
    losses = torch.zeros(len(STRENGTHS), dtype=torch.float64)
    for held, rest in splits:
        readers = _fit(model, y, classes, STRENGTHS, rest, ROUGH)
        for number, reader in enumerate(readers):
            found = reader.log_probabilities(model.x[held])
            losses[number] += F.nll_loss(found, y[held], reduction="sum").cpu()
    if not losses.isfinite().all():
        raise Unmeasurable("linear probe: no fit gives held-out images a finite probability")
    best = int(losses.argmin())
    return best, readers[best].parameters[None]


def _standardised(train: Features, test: Features, order: Tensor) -> tuple[Tensor, Tensor]:
    """Features standardised by mean and deviation of train; training images are put into `order`.
    For a small problem they are float64, with no more dimensions than there are training images.
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
        span = torch.linalg.qr(x.T).Q  # the optimal weights lie in the span of the images
        return x @ span, x_test @ span
    return x, x_test


class LinearProbe(Probe):
    """Logistic regression on frozen features: accuracy and usable label information."""

    name = "linear"
    summary = "logistic regression on standardised features: top-1, and H(Y) - CE in nats"
    columns = ("linear %", "nats gained per label")
    claims = (
        "Share of test images whose label is found by a linear classifier of the frozen features."
        " It is a mean over the label columns.",
        "H(Y) - CE: what a linear classifier gains about the labels, in nats. Other classifiers"
        " could use more.",
    )
    panel = "Labels: linear (solid), kNN (pale)"
    schema = """
        "top1", "information" (H(Y) - CE, nats), "top1/FACTOR", "information/FACTOR",
        "lambda/FACTOR", "confusion": {FACTOR: [[share of the images of class i that are
        read as j]]} (of 2 to 40 classes) """

    def requires(self, frozen: Frozen) -> str:
        return without_labels(frozen)

    def measure(self, frozen: Frozen, **options: int) -> Found:
        both = frozen.features("trainval"), frozen.features("test")
        train, test = near(both, frozen.device)
        fitted = fitted_readings(train, test, frozen.seed)
        pairs = zip(train.factors, fitted, test.y.unbind(1), strict=True)
        shares = {
            factor: [[round(share, 4) for share in row] for row in confusion(reading, y).tolist()]
            for (factor, classes), (reading, _), y in pairs
            if 2 <= classes <= SHOWN
        }
        return Found(scores(fitted, train, test) | ({"confusion": shares} if shares else {}))

    def cells(self, numbers: Numbers) -> list[str]:
        return [f"{100 * numbers['top1']:.1f}", f"{numbers['information']:.2f}"]

    def values(self, numbers: Numbers) -> list[Value | str]:
        return [Value(100 * numbers["top1"], digits=1), Value(numbers["information"])]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        named = {key: value for key, value in numbers.items() if key != "confusion"}
        return {f"linear/{key}": value for key, value in named.items()}

    def sentences(self, numbers: Numbers) -> list[str]:
        return [
            f"linear probe: {100 * numbers['top1']:.1f} % top-1 on test, mean over label columns;"
            f" {numbers['information']:.2f} nats of label information"
        ]

    def plain(self, numbers: Numbers) -> list[str]:
        return [
            f"A linear classifier finds {100 * numbers['top1']:.1f} % of the labels of test images"
            f" and gains {numbers['information']:.2f} nats about a label, on average.",
            *class_charts.said_of_labels(numbers),
            *class_charts.said_of_confusion(numbers.get("confusion", {})),
        ]

    def charts(self, entries: list[Entry]) -> list[Chart]:
        return class_charts.confusions(entries)

    def draw(self, axes: Axes, entries: list[Entry]) -> None:
        figures.draw_accuracies(axes, entries, lambda numbers: numbers["top1"], solid=True)
