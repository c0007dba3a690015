"""The order of compared runs by accuracy and by description length, and where the two disagree."""

import itertools
from collections.abc import Sequence
from statistics import fmean

from probes.report.groups import Group


def said_of_orders(groups: Sequence[Group]) -> list[str]:
    """Sentences about groups that have both the `linear` and the `mdl` probe; none for fewer than
    two. Means over seeds are compared. A disagreement is a pair of runs on the same data of which
    one has the higher accuracy and the other the shorter code.
    """
    found = {
        group.label: (
            fmean(run["top1"] for run in group.runs("linear")),
            fmean(run["kbits"] for run in group.runs("mdl")),
            group.data,
        )
        for group in groups
        if group.runs("linear") and group.runs("mdl")
    }
    if len(found) < 2:
        return []
    accurate = sorted(found, key=lambda name: -found[name][0])
    short = sorted(found, key=lambda name: found[name][1])
    lines = [
        "by accuracy of the linear probe: "
        + ", ".join(f"{name} ({100 * found[name][0]:.1f} %)" for name in accurate),
        "by description length of the labels: "
        + ", ".join(f"{name} ({found[name][1]:.2f} kbit)" for name in short),
    ]
    apart = [
        f"{first} is more accurate, but {second} has the shorter code"
        for first, second in itertools.combinations(accurate, 2)
        if found[first][0] > found[second][0]
        and found[second][1] < found[first][1]
        and found[first][2] == found[second][2]
    ]
    if not apart:
        return [*lines, "both orders agree"]
    return [*lines, f"the orders disagree: {'; '.join(apart)}"]
