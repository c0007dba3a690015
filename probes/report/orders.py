"""The order of compared runs by accuracy and by description length, and where the two disagree."""

import itertools
from collections.abc import Sequence
from statistics import fmean

from probes.report.groups import Group


def said_of_orders(groups: Sequence[Group]) -> list[str]:
    """Sentences about groups on the same data that have both the `linear` and the `mdl` probe; none
    if there are fewer than two such groups. Means over seeds are compared. Two groups disagree if
    one has the higher accuracy and the other the shorter code.
    """
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for group in groups:
        linear, codes = group.runs("linear"), group.runs("mdl")
        if linear and codes:
            accuracy = fmean(run["top1"] for run in linear)
            kbits = fmean(run["kbits"] for run in codes)
            found.setdefault(group.data, {})[group.label] = (accuracy, kbits)
    return [line for scores in found.values() if len(scores) > 1 for line in _of_one(scores)]


def _of_one(scores: dict[str, tuple[float, float]]) -> list[str]:
    accurate = sorted(scores, key=lambda name: -scores[name][0])
    short = sorted(scores, key=lambda name: scores[name][1])
    lines = [
        "by accuracy of the linear probe: "
        + ", ".join(f"{name} ({100 * scores[name][0]:.1f} %)" for name in accurate),
        "by description length of the labels: "
        + ", ".join(f"{name} ({scores[name][1]:.2f} kbit)" for name in short),
    ]
    apart = [
        f"{first} is more accurate, but {second} has the shorter code"
        for first, second in itertools.combinations(accurate, 2)
        if scores[first][0] > scores[second][0] and scores[second][1] < scores[first][1]
    ]
    if not apart:
        return [*lines, "both orders agree"]
    return [*lines, f"the orders disagree: {'; '.join(apart)}"]
