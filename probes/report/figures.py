"""The pictures of a report, and the panels of a comparison. I(V1; V2) and I(X; Z) are different
quantities, so they have panels of their own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

from core.run.checkpoint import write_atomically

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from probes.probe import Entry, Numbers

# Okabe and Ito's colours, which colour-blind readers can tell apart, and a marker with each
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b5b5b")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
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


def rate_distortion(curves: list[tuple[str, Numbers]], path: Path) -> Path:
    """D against R of the rate heads of one or several checkpoints, each with its name and the lower
    convex hull of its points.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.5, 5.2), layout="constrained")
        for number, (label, head) in enumerate(curves):
            colour = COLOURS[number % len(COLOURS)]
            curve(axes, [head["nothing"], *head["points"]], colour, label)
        axes.set(
            title="Rate-distortion curve of frozen features",
            xlabel="rate R, nats an image",
            ylabel="distortion D, nats an image",
        )
        axes.legend(
            fontsize=9, title="points and hull: on and above it is achieved", title_fontsize=8
        )
        return save(figure, path)


def curve(axes: Axes, points: list[dict[str, Any]], colour: str, label: str) -> None:
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
        fmt="o",
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
    """A bar for each checkpoint, on the left of its place if `solid`, else pale on the right."""
    shift, alpha = (-0.2, 1.0) if solid else (0.2, 0.45)
    for place, entry in enumerate(entries):
        percent = 100 * value(entry.numbers)
        axes.bar(place + shift, percent, 0.38, color=entry.colour, alpha=alpha)
        axes.text(place + shift, percent + 1, f"{percent:.1f}", ha="center", fontsize=9)
    axes.set_xticks(range(len(entries)), [entry.label for entry in entries])
    axes.set(ylabel="top-1 on test, %, mean over factors", ylim=(0, 109))


def draw_sweeps(axes: Axes, sweeps: list[tuple[Entry, list[dict[str, Any]]]]) -> None:
    """Bounds against K with intervals, their ceiling, and the truth of each where it is known."""
    for entry, rows in sweeps:
        k = [row["K"] for row in rows]
        look: Any = {"color": entry.colour, "marker": entry.marker, "markersize": 4}
        axes.plot(k, [row["bound"] for row in rows], label=entry.label, **look)
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
    axes.legend(fontsize=9, loc="center right", bbox_to_anchor=(1, 0.42))


def _truths(axes: Axes, sweeps: list[tuple[Entry, list[dict[str, Any]]]]) -> None:
    """The truth, and the best bound that is possible at K: black where it is that of all, else each
    in the colour of the checkpoint whose data it belongs to.
    """
    known = {entry.numbers["truth"] for entry, _ in sweeps}
    drawn: set[float] = set()
    for entry, rows in sweeps:
        truth = entry.numbers["truth"]
        if truth is None or truth in drawn:
            continue
        drawn.add(truth)
        colour, of = ("#222222", "") if len(known) == 1 else (entry.colour, f" of {entry.label}")
        if "best_possible" in rows[0]:
            k, best = [row["K"] for row in rows], [row["best_possible"] for row in rows]
            axes.plot(k, best, "--", color=colour, linewidth=1, label=f"best possible at K{of}")
        axes.axhline(truth, color=colour, linewidth=1)
        axes.annotate(
            f"truth {truth:.2f}",
            (1, truth),
            (-4, 4),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            color=colour,
        )


def draw_rates(axes: Axes, entries: list[Entry]) -> None:
    """Where I(X; Z) lies, the rate above it, and the ceiling of its lower bound."""
    for place, entry in enumerate(entries):
        rate, colour, first = entry.numbers, entry.colour, place == 0
        low, high = rate["lower"]["value"], min(rate["upper"]["value"], rate["rate"]["value"])
        word = "I(X; Z) lies here" if first else None
        axes.bar(place, high - low, 0.5, bottom=low, color=colour, alpha=0.45, label=word)
        across, r = [place - 0.3, place + 0.3], rate["rate"]["value"]
        word = "rate R, upper bound" if first else None
        axes.plot(across, [r] * 2, color=colour, linewidth=2.5, label=word)
        word = "ceiling of the lower bound, log n" if first else None
        axes.plot(across, [rate["ceiling"]] * 2, ":", color="#888888", label=word)
        axes.text(place, low, f"lower {low:.2f}", ha="center", va="top", fontsize=9)
        axes.text(place, r, f"R {r:.2f}", ha="center", va="bottom", fontsize=9)
    top = max(entry.numbers["rate"]["value"] for entry in entries)
    axes.set_xticks(range(len(entries)), [entry.label for entry in entries])
    axes.set(ylabel="nats", xlim=(-0.8, len(entries) - 0.2), ylim=(0, 1.4 * max(top, 1e-3)))
    axes.legend(fontsize=9, loc="upper center")


def save(figure: Any, path: Path) -> Path:
    """Write a figure in the format of its suffix: png, pdf or svg."""
    kind = path.suffix[1:]
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110, format=kind))
    plt.close(figure)
    return path
