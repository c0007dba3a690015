"""The pictures of a report, and the panels of a comparison. I(V1; V2) and I(X; Z) are different
quantities, so they have panels of their own.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib

from core.files import write_atomically

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from probes.probe import Entry, Numbers

# Okabe and Ito's colours, which colour-blind readers can tell apart, then three dark ones of Tol's;
# a marker with each
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#5b5b5b",
    "#332288",
    "#882255",
    "#999933",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h", "d")
FORMATS = ("png", "pdf", "svg")
FEW = 8  # entries, up to which each has its number written beside it
BANDS = "bands: 95% interval; of several seeds\nmean ± standard deviation over seeds"
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "legend.frameon": False,
}


def sweep(numbers: Numbers, path: Path) -> Path:
    """The InfoNCE bound of one checkpoint against K, for each critic."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 4.8), layout="constrained")
        draw_sweeps(
            axes,
            [
                (
                    Entry(f"{key} critic: {found['verdict']}", colour, marker, numbers),
                    found["sweep"],
                )
                for (key, found), colour, marker in zip(
                    numbers["critics"].items(), COLOURS, MARKERS, strict=False
                )
            ],
        )
        axes.set_title("Between views: lower bound on I(V1; V2)")
        return save(figure, path)


def rate_distortion(
    curves: list[tuple[str, Numbers]], path: Path, looks: list[tuple[str, str]] | None = None
) -> Path:
    """D against R of the rate heads of one or several checkpoints, each with its name and the lower
    convex hull of its points. `looks`: a colour and a marker for each.
    """
    looks = looks or [(COLOURS[i % len(COLOURS)], "o") for i in range(len(curves))]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.5, 5.2), layout="constrained")
        for (label, head), (colour, marker) in zip(curves, looks, strict=True):
            curve(axes, [head["nothing"], *head["points"]], colour, label, marker)
        axes.set(
            title="Rate-distortion curve of frozen features",
            xlabel="rate R, nats an image",
            ylabel="distortion D, nats an image",
        )
        legend(axes, "points and hull: on and above it is achieved")
        return save(figure, path)


def curve(
    axes: Axes, points: list[dict[str, Any]], colour: str, label: str, marker: str = "o"
) -> None:
    """Points {"rate", "distortion": {"value", "low", "high"}, "beta"?} with intervals, betas and
    the lower convex hull.
    """
    r, d = (
        [[point[key][bound] for bound in ("value", "low", "high")] for point in points]
        for key in ("rate", "distortion")
    )
    axes.errorbar(
        [value for value, _, _ in r],
        [value for value, _, _ in d],
        xerr=[[value - low for value, low, _ in r], [high - value for value, _, high in r]],
        yerr=[[value - low for value, low, _ in d], [high - value for value, _, high in d]],
        fmt=marker,
        color=colour,
        markersize=5,
        capsize=2,
        linewidth=1,
        label=label,
    )
    axes.plot(
        *zip(*lower_hull([(x[0], y[0]) for x, y in zip(r, d, strict=True)]), strict=True),
        color=colour,
        linewidth=1.2,
    )
    betas: dict[tuple[float, float], list[str]] = {}  # one model may be the best at several prices
    for point in points:
        if "beta" in point:
            betas.setdefault((point["rate"]["value"], point["distortion"]["value"]), []).append(
                f"{point['beta']:g}"
            )
    for place, prices in betas.items():
        axes.annotate(
            f"β {', '.join(prices)}",
            place,
            (4, 5),
            textcoords="offset points",
            fontsize=8,
            color=colour,
        )


def dimensions(rates: list[float], path: Path) -> Path:
    """The rate of each dimension of a code, the largest first."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
        axes.bar(
            range(1, len(rates) + 1), sorted(rates, reverse=True), color=COLOURS[0], width=0.85
        )
        axes.set(
            title=f"Rate of each dimension, {sum(rates):.2f} nats in all",
            xlabel="dimensions of z, sorted",
            ylabel="E KL(q(z_j|x) ‖ p(z_j)), nats",
        )
        return save(figure, path)


def lower_hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lower convex hull of points (R, D) from the left up to the least D: heads used in turn
    reach every point on it.
    """
    hull: list[tuple[float, float]] = []
    for x, y in sorted(points):
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0]) >= (
            y - hull[-2][1]
        ) * (hull[-1][0] - hull[-2][0]):
            hull.pop()
        if not hull or y < hull[-1][1]:
            hull.append((x, y))
    return hull


def draw_accuracies(
    axes: Axes, entries: list[Entry], value: Callable[[Numbers], float], solid: bool
) -> None:
    """A bar for each checkpoint, on the left of its place if `solid`, else pale on the right; of
    several seeds the mean, with the standard deviation over seeds as a line.
    """
    shift, alpha = (-0.2, 1.0) if solid else (0.2, 0.45)
    several = False
    for entry in entries:
        found = [100 * value(numbers) for numbers in entry.runs or (entry.numbers,)]
        percent, at = fmean(found), entry.place + shift
        axes.bar(at, percent, 0.38, color=entry.colour, alpha=alpha)
        top = percent
        if len(found) > 1:
            several, top = True, percent + stdev(found)
            axes.errorbar(at, percent, stdev(found), color="#222222", capsize=2, linewidth=1)
        many = len(entries) > FEW
        axes.text(
            at,
            top + 1,
            f"{percent:.1f}",
            ha="center",
            va="bottom",
            rotation=90 if len(entries) > 3 else 0,
            fontsize=6 if many else 9,
        )
    _named_places(axes, entries)
    over = "\nlines: standard deviation over seeds" if several else ""
    axes.set(ylabel=f"top-1 on test, %, mean over factors{over}", ylim=(0, 109))


def _named_places(axes: Axes, entries: list[Entry]) -> None:
    """The names of entries at their places, beside those that another probe of the panel has
    named.
    """
    named: dict[float, str] = {}
    if isinstance(axes.xaxis.get_major_locator(), FixedLocator):
        texts = [label.get_text() for label in axes.get_xticklabels()]
        named = dict(zip(map(float, axes.get_xticks()), texts, strict=True))
    named |= {float(entry.place): entry.label for entry in entries}
    axes.set_xticks(list(named), list(named.values()))
    if len(named) > 3 or max(map(len, named.values())) > 16:
        many = len(named) > FEW
        axes.tick_params(axis="x", rotation=90 if many else 25, labelsize=8 if many else 9)
        for label in axes.get_xticklabels():
            label.set(ha="center" if many else "right", rotation_mode=None if many else "anchor")


def draw_sweeps(axes: Axes, sweeps: list[tuple[Entry, list[dict[str, Any]]]]) -> None:
    """Bounds against K with their bands, their ceiling, and the truth of each where it is known.

    Of curves that coincide the first is the broadest, and each later one lies on it, dashed.
    """
    curves = [[row["bound"] for row in rows] for _, rows in sweeps]
    room = 0.002 * max(max(max(c) for c in curves) - min(min(c) for c in curves), 1e-9)
    for number, (entry, rows) in enumerate(sweeps):
        k = [row["K"] for row in rows]
        alike = [_coincide(curves[number], other, room) for other in curves]
        below, above = sum(alike[:number]), min(sum(alike[number + 1 :]), 6)
        axes.plot(
            k,
            curves[number],
            label=entry.label,
            color=entry.colour,
            marker=entry.marker,
            markersize=4 + 2 * above,
            linewidth=1.5 + 1.5 * above,
            linestyle=(2 * below, (3, 3)) if below else "-",
        )
        low, high = ([row[side] for row in rows] for side in ("low", "high"))
        axes.fill_between(k, low, high, color=entry.colour, alpha=0.2, linewidth=0)
    longest = max((rows for _, rows in sweeps), key=len)
    k = [row["K"] for row in longest]
    ceiling = [row["ceiling"] for row in longest]
    axes.plot(k, ceiling, ":", color="#888888", label="ceiling log(K + 1)")
    _truths(axes, sweeps)
    lowest = min(row["bound"] for _, rows in sweeps for row in rows)
    axes.set(xlabel="negatives K", ylabel="nats", xscale="log")
    axes.set_ylim(bottom=max(-2.0, min(0.0, lowest)))
    several = any(len(entry.runs) > 1 for entry, _ in sweeps)
    legend(axes, BANDS if several else "bands: 95% interval")


def _coincide(one: list[float], other: list[float], room: float) -> bool:
    return len(one) == len(other) and all(
        abs(x - y) <= room for x, y in zip(one, other, strict=True)
    )


def legend(axes: Axes, title: str | None = None) -> None:
    """The legend to the right of the axes, where it hides nothing."""
    small = len(axes.get_legend_handles_labels()[1]) > 12
    axes.legend(
        title=title,
        title_fontsize=8,
        alignment="left",
        fontsize=7 if small else 9,
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        borderaxespad=0,
    )


def _truths(axes: Axes, sweeps: list[tuple[Entry, list[dict[str, Any]]]]) -> None:
    """The truth, and the best bound that is possible at K: black where it is that of all, else each
    in the colour of the first checkpoint on the data that it belongs to.
    """
    known: dict[Any, tuple[Entry, list[dict[str, Any]]]] = {}
    for entry, rows in sweeps:
        best = tuple(row.get("best_possible") for row in rows)
        known.setdefault((entry.data, entry.numbers["truth"], best), (entry, rows))
    of_all = len({key[:2] for key in known}) == 1
    for number, ((data, truth, _), (entry, rows)) in enumerate(known.items()):
        if truth is None:
            continue
        colour, of = ("#222222", "") if of_all else (entry.colour, f" of {data or entry.label}")
        # of lines that coincide each shows through the gaps of the others
        style: Any = "-" if of_all else (6 * number, (6, 6 * max(1, len(known) - 1)))
        if "best_possible" in rows[0]:
            k, possible = [row["K"] for row in rows], [row["best_possible"] for row in rows]
            dashes: Any = "--" if of_all else (3 * number, (3, 3 * max(1, len(known) - 1)))
            label = f"best possible at K{of}"
            axes.plot(k, possible, color=colour, linestyle=dashes, linewidth=1, label=label)
        axes.axhline(truth, color=colour, linewidth=1, linestyle=style)
        axes.annotate(
            f"truth{of} {truth:.2f}",
            (1, truth),
            (-4, 4 + (0 if of_all else 11 * number)),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            color=colour,
        )


def draw_rates(axes: Axes, entries: list[Entry]) -> None:
    """Where I(X; Z) lies, the rate above it, and the ceiling of its lower bound."""
    for number, entry in enumerate(entries):
        rate, colour, place = entry.numbers, entry.colour, entry.place
        low, high = rate["lower"]["value"], min(rate["upper"]["value"], rate["rate"]["value"])
        words = ("I(X; Z) lies here", "rate R, upper bound", "ceiling of the lower bound, log n")
        first = words if number == 0 else ("", "", "")
        axes.bar(place, high - low, 0.5, bottom=low, color=colour, alpha=0.45, label=first[0])
        across, r = [place - 0.3, place + 0.3], rate["rate"]["value"]
        axes.plot(across, [r] * 2, color=colour, linewidth=2.5, label=first[1])
        if len(entry.runs) > 1:
            half = rate["rate"]["high"] - r
            axes.errorbar(place, r, half, color="#222222", capsize=2, linewidth=1)
        axes.plot(across, [rate["ceiling"]] * 2, ":", color="#888888", label=first[2])
        many = len(entries) > FEW
        look: Any = {"ha": "center", "fontsize": 6 if many else 9, "rotation": 90 if many else 0}
        axes.text(place, low, f"lower {low:.2f} ", va="top", **look)
        axes.text(place, r, f" R {r:.2f}", va="bottom", **look)
    top = max(entry.numbers["rate"]["value"] for entry in entries)
    _named_places(axes, entries)
    axes.set(ylabel="nats", ylim=(0, 1.25 * max(top, 1e-3)))
    axes.set_xlim(-0.8, max(entry.place for entry in entries) + 0.8)
    several = any(len(entry.runs) > 1 for entry in entries)
    legend(axes, "means over seeds; lines:\nstandard deviation" if several else None)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure in the format of its suffix: png, pdf or svg."""
    kind = path.suffix[1:].lower()
    try:
        write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110, format=kind))
    finally:
        plt.close(figure)
    return path
