"""Linear probe: multinomial logistic regression on standardised frozen features, by L-BFGS.

n = images, D = feature dimensions, Y = classes.
"""

from core.frozen import Frozen
from core.randomness import KeyedRNG
from core.run.features import Features, mean_and_deviation

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes

from probes.labels.logistic import Logistic
from probes.probe import Entry, Found, Numbers, Probe
from probes.report import figures

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # lambda, chosen on a held-out tenth of train
# relative; strengths a factor of ten apart are told from each other long before they are fitted to
# the last digit
ROUGH = 1e-5
FINE = 1e-6  # relative; of the fit that is scored, far below what a score shows


def linear(train: Features, test: Features, seed: int = 0) -> dict[str, float]:
    """Top-1 and usable label information of every factor ("top1/FACTOR", "information/FACTOR") and
    their means.

    Usable information is H(Y) - CE in nats (Xu et al. 2020): H(Y) is the cross-entropy on test of
    the train split's class frequencies, CE that of the probe, so it is what a linear reader gains
    from the features. lambda is chosen by CE on a held-out tenth of train and the probe refitted on
    all of it; the test split is read once.
    """
    mean, deviation = mean_and_deviation(train.x)
    order, tenth = (
        KeyedRNG(seed, 0).permutation("linear probe", len(train.x)),
        max(1, len(train.x) // 10),
    )
    x, x_test = ((features - mean).div_(deviation) for features in (train.x[order], test.x))
    labels = train.y[order]
    held, rest = (
        slice(tenth),
        slice(tenth, None),
    )  # of the shuffled images, so that neither is copied again for each factor
    model = Logistic(x)
    top1, information, chosen = {}, {}, {}
    for column, (factor, classes) in enumerate(train.factors):
        y, y_test = labels[:, column], test.y[:, column]
        grid = model.fit(y, classes, STRENGTHS, rest, rough=ROUGH)
        losses = [
            F.cross_entropy(F.linear(x[held], *parameters), y[held])
            for parameters in zip(*model.parameters(grid), strict=True)
        ]
        best = int(torch.stack(losses).argmin())
        chosen[factor] = STRENGTHS[best]
        weight, bias = model.parameters(
            model.fit(
                y, classes, STRENGTHS[best : best + 1], start=grid[best : best + 1], rough=FINE
            )
        )
        logits = F.linear(x_test, weight[0], bias[0])
        frequency = (torch.bincount(y, minlength=classes).double() + 1) / (
            len(y) + classes
        )  # no class of probability zero
        entropy = -frequency.log()[y_test].mean().item()
        top1[factor] = (logits.argmax(1) == y_test).double().mean().item()
        information[factor] = entropy - F.cross_entropy(logits.double(), y_test).item()
    scores = {
        "top1": sum(top1.values()) / len(top1),
        "information": sum(information.values()) / len(information),
    }
    scores |= {f"top1/{factor}": value for factor, value in top1.items()} | {
        f"information/{factor}": value for factor, value in information.items()
    }
    return scores | {f"lambda/{factor}": value for factor, value in chosen.items()}


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

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {f"linear/{key}": value for key, value in numbers.items()}

    def sentences(self, numbers: Numbers) -> list[str]:
        return [
            f"linear probe: {100 * numbers['top1']:.1f} % top-1 on test, mean over label columns;"
            f" {numbers['information']:.2f} nats of label information"
        ]

    def draw(self, axes: Axes, entries: list[Entry]) -> None:
        figures.draw_accuracies(axes, entries, lambda numbers: numbers["top1"], solid=True)
