"""Usable information about labels for three readers, and what more images would add.

n, m = training and test images, F = factors.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.console import steps_left
from core.errors import Unmeasurable
from core.frozen import Frozen
from core.information.bounds import Estimate, interval
from core.information.standardise import require_finite_numbers
from core.information.verdict import wants_data
from core.randomness import KeyedRNG
from core.run.features import Features
from probes.labels import knn_reader, linear, mlp
from probes.labels.reading import Reading
from probes.probe import Found, Numbers, Probe, Value, without_labels
from probes.report import figures
from probes.report.schema import bounds

READERS = ("linear", "mlp", "knn")
NAMES = {"linear": "linear", "mlp": "MLP", "knn": "kNN"}
LEAST = 40  # training images: half of them must be enough for every reader

Reader = Callable[[Features, Features, int], list[Reading]]


def usable(train: Features, test: Features, seed: int = 0, epochs: int = 100) -> Numbers:
    """H(Y) - CE of a linear, an MLP and a kNN reader, in nats, for every factor and as a mean over
    factors, each with a 95% interval over test images (Xu et al. 2020).

    H(Y) is the cross-entropy on test of the class frequencies of train. A reader is fitted to train
    alone. Each value is an estimate of a lower bound on I(X; Y), up to the error of H(Y).

    The same readers are also fitted to a random half of train. "gain" is how much the other half
    adds to the value. If the loss falls as 1/n, twice as many images would add half of the gain,
    and infinitely many images would add the whole gain once more, so

        extrapolated = value + gain,

    which is an estimate, not a bound. "limited": the gain is more than 3 % of the value and more
    than chance explains, so the limit may be the number of images and not the reader. Raises
    `Unmeasurable` for fewer than 40 training images, and where a reader raises it.
    """
    n = len(train.x)
    if n < LEAST:
        raise Unmeasurable(f"usable information: needs {LEAST} training images, got {n}")
    if len(test.x) < 2:
        raise Unmeasurable("usable information: its interval needs two test images, got 1")
    rows = KeyedRNG(seed, 0).permutation("usable information", n)[: n // 2]
    half = Features(train.x[rows], train.y[rows], train.factors)
    readers: dict[str, Reader] = {
        "linear": linear.readings,
        "mlp": partial(mlp.readings, epochs=epochs),
        "knn": knn_reader.readings,
    }
    found: Numbers = {"images": len(test.x), "train_images": n}
    names = list(readers)
    for place in steps_left(len(names), "usable information", "readers"):
        read = readers[names[place]]
        all_of_it, part = read(train, test, seed), read(half, test, seed)
        found[names[place]] = _numbers(all_of_it, part, test)
    require_finite_numbers(found, "usable information")
    return found


def _numbers(whole: list[Reading], half: list[Reading], test: Features) -> Numbers:
    """The numbers of a reader: of every factor, and of the mean over factors."""
    values: list[Tensor] = []
    gains: list[Tensor] = []
    by_factor = {}
    for column, (factor, _) in enumerate(test.factors):
        y = test.y[:, column]
        values.append(whole[column].information(y))
        gains.append(half[column].cross_entropy(y) - whole[column].cross_entropy(y))
        by_factor[factor] = _described(interval(values[-1]), interval(gains[-1]))
    value, gain = (interval(torch.stack(terms).mean(0)) for terms in (values, gains))
    return _described(value, gain) | {"factor": by_factor}


def _described(value: Estimate, gain: Estimate) -> Numbers:
    return bounds(value) | {
        "gain": bounds(gain),
        "extrapolated": value.mean + gain.mean,
        "limited": int(wants_data(value.mean, gain)),
    }


class UsableProbe(Probe):
    """What three readers gain about the labels, and whether more images would help."""

    name, on_request = "usable", True
    summary = "H(Y) - CE for linear, MLP and kNN readers, with intervals and an extrapolation in n"
    columns = ("linear nats", "MLP nats", "kNN nats")
    options = {"epochs": 100}
    schema = """
        "linear" | "mlp" | "knn": {"value" (H(Y) - CE, nats, mean over factors), "low", "high",
        "gain" (of the second half of the training images): {"value", "low", "high"},
        "extrapolated" (in 1/n; no bound), "limited" (by the number of images; 0 | 1),
        "factor": {FACTOR: the same}}, "images", "train_images" """

    def requires(self, frozen: Frozen) -> str:
        return without_labels(frozen)

    def measure(self, frozen: Frozen, **options: int) -> Found:
        train, test = (frozen.features(split) for split in ("trainval", "test"))
        return Found(usable(train, test, frozen.seed, options["epochs"]))

    def cells(self, numbers: Numbers) -> list[str]:
        return [f"{numbers[reader]['value']:.3f}" for reader in READERS]

    def values(self, numbers: Numbers) -> list[Value | str]:
        parts = (numbers[reader] for reader in READERS)
        return [Value(part["value"], part["low"], part["high"], digits=3) for part in parts]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {f"usable/{reader}": numbers[reader]["value"] for reader in READERS}

    def sentences(self, numbers: Numbers) -> list[str]:
        lines = []
        for reader in READERS:
            part = numbers[reader]
            limit = (
                f"the number of images is a limit: infinitely many images may give"
                f" {part['extrapolated']:.3f} (extrapolated in 1/n, not a bound)"
                if part["limited"] > 0
                else "this gain is small, or no larger than chance explains"
            )
            lines.append(
                f"usable information, {NAMES[reader]} reader: {part['value']:.3f} nats"
                f" ({part['low']:.3f} … {part['high']:.3f}), mean over label columns; the second"
                f" half of {numbers['train_images']:,} training images added"
                f" {part['gain']['value']:.3f} nats; {limit}"
            )
        return lines

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        """Each factor and reader: the value with its interval, and the extrapolation."""
        return {"usable": draw_readers(found.numbers, folder / "usable.png")}


def draw_readers(numbers: Numbers, path: Path) -> Path:
    """A group of three points for each factor; an empty circle shows the extrapolation."""
    factors = list(numbers["linear"]["factor"])
    look: Any = {"fmt": "o", "markersize": 5, "capsize": 2}
    with figures.picture(path, figsize=(max(5.5, 1.6 + 1.1 * len(factors)), 4.4)) as (_, axes):
        for number, reader in enumerate(READERS):
            parts = [numbers[reader]["factor"][factor] for factor in factors]
            places = [place + 0.22 * (number - 1) for place in range(len(factors))]
            value = [part["value"] for part in parts]
            bars = [[p["value"] - p["low"] for p in parts], [p["high"] - p["value"] for p in parts]]
            colour = figures.COLOURS[number]
            axes.errorbar(places, value, bars, color=colour, label=NAMES[reader], **look)
            more = [part["extrapolated"] for part in parts]
            axes.plot(places, more, "o", color=colour, markerfacecolor="none", markersize=9)
        axes.set_xticks(range(len(factors)), [figures.drawable(factor) for factor in factors])
        axes.set(ylabel="H(Y) − CE, nats (95% intervals)")
        axes.set_title("Usable information about the labels")
        figures.legend(axes, "circles: extrapolated in 1/n,\nnot a bound")
    return path
