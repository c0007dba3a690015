"""The first sentences of the page: which checkpoint shows the most, what the truth is, what limits
the bounds, and whether the comparison is fair.
"""

from collections.abc import Collection, Sequence

from probes.probe import Bound, Entry
from probes.report.groups import Group, mean
from probes.report.page import bound_charts
from probes.report.store import MALFORMED

BOUNDS = (
    "lower and upper bound",
    "A lower bound says “at least”: the truth may be anywhere above it. An upper bound says “at"
    " most”: the truth may be anywhere below it.",
)
OF_VIEWS = (
    (
        "views, I(V1; V2)",
        "Two views of an image differ in what is random, such as crops and colours, or, for"
        " sprites, place, rotation and noise. I(V1; V2) is the information that they share, in"
        " nats.",
    ),
    (
        "critic, K, ceiling",
        "A critic sees one view and K + 1 candidates: the true second view, and views of K other"
        " images (negatives). A critic that finds the true second view more surely gives a larger"
        " bound. No critic can show more than the ceiling log(K + 1).",
    ),
)
OF_CODES = (
    "rate R, I(X; Z)",
    "I(X; Z) is the information between an image and its code. The rate R, a part of a VAE's loss,"
    " is an upper bound on I(X; Z).",
)
OF_FEATURES = (
    (
        "effective rank (RankMe)",
        "The number of dimensions over which the features spread, from the entropy of their"
        " singular values. It is 1 if one direction describes all features, and equals the number"
        " of dimensions if they spread equally over all.",
    ),
    (
        "α-ReQ",
        "The exponent α of the decay of the features' variances: along the j-th principal"
        " direction, the variance is about proportional to 1/j^α. If α = 0, all directions vary"
        " equally. The authors of α-ReQ found the best accuracy near α = 1.",
    ),
    (
        "cluster learnability",
        "The first part of CLID: features are grouped into clusters without labels, and the"
        " nearest neighbour predicts the cluster of an image. The number is the share of correct"
        " predictions, from 0 to 1. Well separated clusters give 1.",
    ),
    (
        "intrinsic dimension",
        "The second part of CLID: an estimate of the number of dimensions of the set on which the"
        " features lie. It is computed from the distances between each image and its two nearest"
        " images. CLID is the sum of both parts, each standardised over the compared checkpoints.",
    ),
)
SHORT = 4  # checkpoints that a short text names
Held = list[tuple[Entry, Bound]]


def compared(held: list[tuple[Entry, list[Bound]]]) -> list[str]:
    """Which checkpoint has the largest lower bound on each quantity, whether its distance from the
    others exceeds the interval, and what limits the bounds.
    """
    lines: list[str] = []
    of: dict[tuple[str, str, str], Held] = {}
    for entry, mine in held:
        for bound in mine:
            if bound.side == "lower":
                of.setdefault((bound.quantity, bound.views, entry.data), []).append((entry, bound))
    for (quantity, _, _), found in of.items():
        upper: dict[int, Bound] = {}
        for entry, mine in held:
            above = [b for b in mine if b.quantity == quantity and b.side == "upper"]
            if above:
                upper[entry.place] = min(above, key=lambda bound: bound.value)
        found.sort(key=lambda pair: -pair[1].value)
        lines += _between(quantity, found, upper) if upper else _leader(quantity, found)
        lines += _known(found)
        limits: dict[str, list[str]] = {}
        for entry, bound in found:
            if bound.verdict:
                limits.setdefault(bound.verdict, []).append(entry.label)
        for verdict, names in limits.items():
            said = bound_charts.VERDICTS.get(verdict, "")
            who = f"{len(names)} of {len(found)} checkpoints"
            who = named(names) if len(names) <= SHORT else who
            lines.append(f"Verdict on {quantity} for {who}: {verdict}. {said}".strip())
    return lines


def _between(quantity: str, found: Held, upper: dict[int, Bound]) -> list[str]:
    """Checkpoints whose value lies between two bounds. None is said to show the most, because the
    ranges between their bounds may overlap.
    """
    meaning = bound_charts.MEANINGS.get(quantity, quantity)
    said = []
    for entry, bound in found[:SHORT]:
        most = upper.get(entry.place)
        end = f" and at most {most.value:.2f} nats ({most.name})." if most else " nats."
        line = f"{entry.label}: {meaning} is at least {bound.value:.2f}{end}"
        if bound.ceiling is not None and bound.value > bound.ceiling - bound_charts.NEAR:
            line += (
                f" {bound.value:.2f} is about log n, the most that this bound can show with n"
                " images, so the true value may be far above it."
            )
        said.append(line)
    more = len(found) - SHORT
    return said + ([f"{more} further checkpoints are in the table."] if more > 0 else [])


def _known(found: Held) -> list[str]:
    """How the bounds compare with the truth, if it is known."""
    truths = {bound.truth for _, bound in found}
    if len(truths) != 1 or None in truths:
        return []
    (truth,) = truths
    above = [entry.label for entry, bound in found if truth is not None and bound.low > truth]
    several = any(len(entry.runs) > 1 for entry, _ in found)
    if above:
        kind = "intervals (for several seeds: the spreads)" if several else "intervals"
        return [f"The truth is {truth:.3f} nats. The {kind} of {named(above)} lie above it."]
    return [
        f"The truth is known here: {truth:.3f} nats. No lower bound exceeds it by more than its"
        f" interval{' (for several seeds: its spread)' if several else ''}."
    ]


def _leader(quantity: str, found: Held) -> list[str]:
    """The largest lower bound, and the distance of each other one from it."""
    (first, best), *others = found
    meaning = bound_charts.MEANINGS.get(quantity, quantity)
    if not others:
        return [f"{first.label}: {meaning} is at least {best.value:.3f} nats."]
    lines = [f"{first.label} shows the most of {meaning}: at least {best.value:.3f} nats."]
    for entry, bound in others[:SHORT]:
        gap = bound_charts.gap(best.value, bound.value)
        half = sum(((one.high - one.low) / 2) ** 2 for one in (best, bound)) ** 0.5
        settled = best.value - bound.value > half
        counts = (len(first.runs), len(entry.runs))
        kind = bound_charts.interval_word(counts)
        lines.append(
            f"{entry.label} shows at least {bound.value:.3f} nats. The difference from"
            f" {first.label}, {gap:.3f} ± {half:.3f} ({kind}, treating the two as independent),"
            f" {_judged(settled, max(counts) > 1)}."
        )
    more = len(others) - SHORT
    return lines + ([f"{more} further checkpoints are in the table."] if more > 0 else [])


def _judged(settled: bool, seeds: bool) -> str:
    """What the distance of two bounds says, beside its interval or its spread over seeds."""
    if seeds:
        return f"is {'larger' if settled else 'not larger'} than this spread"
    return "is larger than its interval" if settled else "may be zero"


def named(names: Sequence[str]) -> str:
    """Names as a list in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def of_limits(group: Group) -> list[str]:
    """Remarks on one checkpoint: that two limits coincide, and why the length of a lossless file
    was not measured.
    """
    lines: list[str] = []
    rates, found = group.runs("rate"), group.runs("information")
    if not rates:
        return lines
    try:
        ends = [sweep["sweep"][-1]["ceiling"] for sweep in found[0]["critics"].values()]
        if abs(mean(rates)["ceiling"] - ends[0]) < 0.005:
            lines.append(
                f"Two limits are equal here ({ends[0]:.2f} nats), because K + 1 = n: log(K + 1),"
                " the limit for I(V1; V2), and log n, the limit for I(X; Z)."
            )
    except (IndexError, *MALFORMED):
        pass
    if not group.runs("compression"):
        absent = group.reports[0]["absent"].get("compression")
        why = absent or "the compression probe was not requested"
        lines.append(f"The length of a lossless file (bits back) was not measured: {why}.")
    return lines


def words(measured: Collection[str]) -> list[tuple[str, str]]:
    """(term, meaning) of the terms that the sentences use, for the probes that were run."""
    views, codes = "information" in measured, "rate" in measured
    bounds = [*[BOUNDS] * (views or codes), *(OF_VIEWS if views else ()), *[OF_CODES] * codes]
    return bounds + [*OF_FEATURES] * ("geometry" in measured)


def unequal(seen: Sequence[tuple[str, int | None]]) -> list[str]:
    """A warning if the checkpoints (label, images) have not seen equally many training images."""
    known = [(label, images) for label, images in seen if images is not None]
    if len({images for _, images in known}) < 2:
        return []
    of: dict[int, list[str]] = {}
    for label, images in known:
        of.setdefault(images, []).append(label)
    said = [f"{named(labels)} {images:,}" for images, labels in list(of.items())[:SHORT]]
    rest = "" if len(of) <= SHORT else ", and others"
    return [
        "The checkpoints have not seen equally many images in training:"
        f" {'; '.join(said)}{rest}. Differences between them may come from this."
    ]
