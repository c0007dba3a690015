"""Linear and kNN probes with 1 % and 10 % of the labels.

n = images, F = label columns.
"""

from statistics import fmean, stdev

import torch
from torch import Tensor

from core.errors import Unmeasurable
from core.frozen import Frozen
from core.randomness import KeyedRNG
from core.run.features import Features
from probes.labels.knn import knn
from probes.labels.linear import linear
from probes.probe import Found, Numbers, Probe, Value, without_labels

PERCENTS = (1, 10)
NEIGHBOURS, TEMPERATURE = 20, 0.07


def balanced(y: Tensor, classes: int, percent: float, seed: int, draw: int = 0) -> Tensor:
    """Indices of `percent` % of n labelled images, equally many of each class, int64 [k * classes].

    k = percent n / (100 classes), rounded, at least 1; a class with fewer images gives all of them.
    This is the rule of SimCLR's splits (Chen et al. 2020, section 4.2); the images are a
    function of `seed` and `draw`, and no two pairs of these share random numbers.
    """
    each = max(1, round(percent / 100 * len(y) / classes))
    order = KeyedRNG(seed, draw).permutation(f"low shot {percent:g} %", len(y))
    chosen = [order[y[order] == label][:each] for label in range(classes)]
    return torch.cat(chosen).sort().values


def low_shot(
    train: Features, test: Features, percent: float, seed: int = 0, draws: int = 3
) -> Numbers:
    """Top-1 of both probes with `percent` % of the labels: mean and standard deviation over draws
    of the labelled images; different seeds have different draws. The top-1 of a draw is a mean over
    label columns. The linear probe chooses its penalty on the labelled images alone.

    Raises `Unmeasurable` if a draw has fewer than two images.
    """
    scores: dict[str, list[float]] = {"linear": [], "knn": []}
    images = 0
    for draw in range(draws):
        found: dict[str, list[float]] = {"linear": [], "knn": []}
        for column, factor in enumerate(train.factors):
            rows = balanced(train.y[:, column], factor[1], percent, seed, draw)
            if len(rows) < 2:
                few_labels = f"{percent:g} % of the labels are {len(rows)}"
                raise Unmeasurable(f"low shot: needs 2 labelled images, but {few_labels}")
            few = Features(train.x[rows], train.y[rows, column, None], (factor,))
            here = Features(test.x, test.y[:, column, None], (factor,))
            images = max(images, len(rows))
            found["linear"].append(linear(few, here, seed)["top1"])
            found["knn"].append(knn(few, here, NEIGHBOURS, TEMPERATURE)["top1"])
        for name, values in found.items():
            scores[name].append(fmean(values))
    made: Numbers = {"images": images, "draws": draws}
    for name, values in scores.items():
        spread = stdev(values) if draws > 1 else 0.0
        made[name] = {"top1": fmean(values), "sd": spread}
    return made


class LowShotProbe(Probe):
    """Accuracy of probes of the features if only few images have labels."""

    name, on_request = "low_shot", True
    summary = "linear and kNN (k = 20) with 1 % and 10 % of the labels, balanced by class, 3 draws"
    columns = ("1 %: linear", "1 %: kNN", "10 %: linear", "10 %: kNN")
    options = {"draws": 3}
    schema = """
        "1" | "10" (percent): {"images", "draws", "linear" | "knn": {"top1", "sd" over draws}},
        "seed" (of all draws) """

    def requires(self, frozen: Frozen) -> str:
        return without_labels(frozen)

    def measure(self, frozen: Frozen, **options: int) -> Found:
        train, test = (frozen.features(split) for split in ("trainval", "test"))
        found: Numbers = {
            str(percent): low_shot(train, test, percent, frozen.seed, options["draws"])
            for percent in PERCENTS
        }
        return Found(found | {"seed": frozen.seed})

    def cells(self, numbers: Numbers) -> list[str]:
        return [f"{100 * part['top1']:.1f}" for part in _parts(numbers)]

    def values(self, numbers: Numbers) -> list[Value | str]:
        return [Value(100 * part["top1"], digits=1) for part in _parts(numbers)]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {
            f"low_shot/{percent}/{kind}": numbers[str(percent)][kind]["top1"]
            for percent in PERCENTS
            for kind in ("linear", "knn")
        }

    def sentences(self, numbers: Numbers) -> list[str]:
        return [
            f"{percent} % of the labels ({part['images']:,} images, balanced by class,"
            f" {part['draws']} draws of seed {numbers['seed']}): linear {_said(part['linear'])},"
            f" kNN {_said(part['knn'])} top-1 on test"
            for percent, part in ((p, numbers[str(p)]) for p in PERCENTS)
        ]


def _parts(numbers: Numbers) -> list[dict[str, float]]:
    return [numbers[str(percent)][kind] for percent in PERCENTS for kind in ("linear", "knn")]


def _said(part: dict[str, float]) -> str:
    return f"{100 * part['top1']:.1f} ± {100 * part['sd']:.1f} %"
