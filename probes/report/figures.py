"""The pictures of a report, and the panels of a comparison. I(V1; V2) and I(X; Z) are different
quantities, so they have panels of their own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib

from core.files import write_atomically

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from probes.probe import Entry, Numbers

# Okabe and Ito's colours, which colour-blind readers can tell apart; a grey; three of Tol's
COLOURS: tuple[str, ...] = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
COLOURS += ("#5b5b5b", "#332288", "#882255", "#999933")
NUMBERED = 20  # dimensions; up to this number, each bar is labelled with its dimension
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h", "d")
BLACK, GREY = "#222222", "#888888"
FEW = 8  # entries; if there are more, texts are smaller
BANDS = "bands: 95% interval; for several seeds,\nmean ± standard deviation over seeds"
RATE, DISTORTION = "rate R, nats an image", "distortion D, nats an image"
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "legend.frameon": False,
}


@contextmanager
def picture(path: Path, *shape: int, **look: Any) -> Iterator[tuple[Figure, Any]]:
    """A figure and its axes in the common style, written to `path` at the end."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(*shape, layout="constrained", **look)
        yield figure, axes
        save(figure, path)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure in the format of its suffix: png, pdf or svg."""
    kind = path.suffix[1:].lower()
    try:
        write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110, format=kind))
    finally:
        plt.close(figure)
    return path


def note(axes: Axes, text: str, place: Any, shift: tuple[float, float], **look: Any) -> None:
    """A text beside a place, shifted by points."""
    axes.annotate(text, place, shift, textcoords="offset points", **look)


def drawable(name: str) -> str:
    """A name with special characters escaped: in matplotlib a dollar begins a formula, and legends
    leave out names that begin with "_".
    """
    name = f"./{name}" if name.startswith("_") else name
    return name.replace("$", r"\$")


def head_curves(
    curves: list[tuple[str, Numbers]], path: Path, looks: list[tuple[str, str]] | None = None
) -> Path:
    """D against R of the rate heads of checkpoints, each with its name. `looks`: a colour and a
    marker for each.
    """
    looks = looks or [(COLOURS[i % len(COLOURS)], "o") for i in range(len(curves))]
    with picture(path, figsize=(7.5, 5.2)) as (_, axes):
        for (label, head), (colour, marker) in zip(curves, looks, strict=True):
            curve(axes, [head["nothing"], *head["points"]], colour, label, marker)
        title = "Rate-distortion curve of frozen features"
        axes.set(title=title, xlabel=RATE, ylabel=DISTORTION)
        legend(axes, "points and hull: all values above the hull are achievable")
    return path


def curve(
    axes: Axes, points: list[dict[str, Any]], colour: str, label: str, marker: str = "o"
) -> None:
    """Points with intervals, their betas, and their lower convex hull.

    A point is {"rate", "distortion": {"value", "low", "high"}, "beta"?}.
    """
    r, d = (
        np.array([[point[key][bound] for bound in ("value", "low", "high")] for point in points]).T
        for key in ("rate", "distortion")
    )
    y_bars, x_bars = ([x[0] - x[1], x[2] - x[0]] for x in (d, r))
    look: Any = {"color": colour, "markersize": 5, "capsize": 2, "linewidth": 1, "label": label}
    axes.errorbar(r[0], d[0], y_bars, x_bars, fmt=marker, **look)
    hull = lower_hull(list(zip(r[0].tolist(), d[0].tolist(), strict=True)))
    axes.plot(*zip(*hull, strict=True), color=colour, linewidth=1.2)
    betas: dict[tuple[float, float], list[str]] = {}  # one head may be the best at several betas
    for point, place in zip(points, zip(r[0], d[0], strict=True), strict=True):
        if "beta" in point:
            betas.setdefault(place, []).append(f"{point['beta']:g}")
    for place, prices in betas.items():
        note(axes, f"β {', '.join(prices)}", place, (4, 5), fontsize=8, color=colour)


def dimensions(rates: list[float], path: Path) -> Path:
    """The rate of each dimension of a code, the largest first. If there are at most `NUMBERED`,
    each is labelled with its place in the code, as in the pictures of traversals.
    """
    order = sorted(range(len(rates)), key=lambda place: -rates[place])
    with picture(path, figsize=(7, 3.6)) as (_, axes):
        places = range(1, len(rates) + 1)
        axes.bar(places, [rates[place] for place in order], color="#5f6368", width=0.85)
        axes.set(title=f"Rate of each dimension, {sum(rates):.2f} nats in all")
        axes.set(xlabel="dimensions of z, sorted", ylabel="E KL(q(z_j|x) ‖ p(z_j)), nats")
        if len(rates) <= NUMBERED:
            axes.set_xticks(list(places), [f"z {place}" for place in order], fontsize=8)
            axes.set_xlabel("dimensions of z, sorted by rate")
    return path


def lower_hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lower convex hull of points (R, D), from the least R to the least D. Every point on the
    line between two heads is reached by choosing one of them at random for each image.
    """
    hull: list[tuple[float, float]] = []
    for x, y in sorted(points):
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            hull.pop()
        if not hull or y < hull[-1][1]:
            hull.append((x, y))
    return hull


def draw_accuracies(
    axes: Axes, entries: list[Entry], value: Callable[[Numbers], float], solid: bool
) -> None:
    """A bar for each checkpoint: solid at the left of its place if `solid`, else pale at the right.
    For several seeds the bar is the mean, and a line shows the standard deviation.
    """
    shift, alpha = (-0.2, 1.0) if solid else (0.2, 0.45)
    look: Any = {"ha": "center", "va": "bottom", "rotation": 90 if len(entries) > 3 else 0}
    several = False
    for entry in entries:
        found = [100 * value(numbers) for numbers in entry.runs or (entry.numbers,)]
        percent, at = fmean(found), entry.place + shift
        axes.bar(at, percent, 0.38, color=entry.colour, alpha=alpha)
        top = percent
        if len(found) > 1:
            several, top = True, percent + stdev(found)
            axes.errorbar(at, percent, stdev(found), color=BLACK, capsize=2, linewidth=1)
        size = 6 if len(entries) > FEW else 9
        axes.text(at, top + 1, f"{percent:.1f}", fontsize=size, **look)
    named_places(axes, entries)
    over = "\nlines: standard deviation over seeds" if several else ""
    axes.set(ylabel=f"top-1 on test, %, mean over factors{over}", ylim=(0, 109))


def named_places(axes: Axes, entries: list[Entry]) -> None:
    """Label the places of entries, and keep the labels that another probe of the panel has set."""
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


def legend(axes: Axes, title: str | None = None) -> None:
    """The legend to the right of the axes, where it hides nothing."""
    small = len(axes.get_legend_handles_labels()[1]) > 12
    look: Any = {"title_fontsize": 8, "alignment": "left", "fontsize": 7 if small else 9}
    axes.legend(title=title, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, **look)


def draw_rates(axes: Axes, entries: list[Entry]) -> None:
    """The interval that contains I(X; Z), the rate above it, and the ceiling of the lower bound."""
    words = ("I(X; Z) lies here", "rate R, upper bound", "ceiling of the lower bound, log n")
    many, several = len(entries) > FEW, any(len(entry.runs) > 1 for entry in entries)
    look: Any = {"ha": "center", "fontsize": 6 if many else 9, "rotation": 90 if many else 0}
    for number, entry in enumerate(entries):
        rate, colour, place = entry.numbers, entry.colour, entry.place
        low, high = rate["lower"]["value"], min(rate["upper"]["value"], rate["rate"]["value"])
        first = words if number == 0 else ("", "", "")
        axes.bar(place, high - low, 0.5, bottom=low, color=colour, alpha=0.45, label=first[0])
        across, r = [place - 0.3, place + 0.3], rate["rate"]["value"]
        axes.plot(across, [r] * 2, color=colour, linewidth=2.5, label=first[1])
        if len(entry.runs) > 1:
            half = rate["rate"]["high"] - r
            axes.errorbar(place, r, half, color=BLACK, capsize=2, linewidth=1)
        axes.plot(across, [rate["ceiling"]] * 2, ":", color=GREY, label=first[2])
        axes.text(place, low, f"lower {low:.2f} ", va="top", **look)
        axes.text(place, r, f" R {r:.2f}", va="bottom", **look)
    top = max(entry.numbers["rate"]["value"] for entry in entries)
    named_places(axes, entries)
    axes.set(ylabel="nats", ylim=(0, 1.25 * max(top, 1e-3)))
    axes.set_xlim(-0.8, max(entry.place for entry in entries) + 0.8)
    legend(axes, "means over seeds; lines:\nstandard deviation" if several else None)
