"""Bounds on I(V1; V2) against the number of negatives K, for one or several checkpoints."""

import math
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from probes.probe import Entry, Numbers
from probes.report.figures import (
    BANDS,
    BLACK,
    COLOURS,
    GREY,
    MARKERS,
    legend,
    named_places,
    note,
    picture,
)

MOST_CURVES = len(COLOURS)  # with more checkpoints, curves can not be told apart
TICKS = 7  # at most, on the axis of K

Sweep = tuple[Entry, list[dict[str, Any]]]  # a checkpoint, and its bound at each K


def sweep(numbers: Numbers, path: Path) -> Path:
    """The InfoNCE bound of one checkpoint against K, for each critic."""
    sweeps = [
        (Entry(f"{key} critic: {found['verdict']}", colour, marker, numbers), found["sweep"])
        for (key, found), colour, marker in zip(
            numbers["critics"].items(), COLOURS, MARKERS, strict=False
        )
    ]
    with picture(path, figsize=(7, 4.8)) as (_, axes):
        draw_sweeps(axes, sweeps)
        axes.set_title("Between views: lower bound on I(V1; V2)")
    return path


def draw_sweeps(axes: Axes, sweeps: list[Sweep]) -> None:
    """Bounds against K with their intervals, their ceiling, and the truth if it is known. For more
    than `MOST_CURVES` checkpoints, only the bounds at the largest K are drawn.

    Curves may coincide, so the first curve is the broadest, later ones are dashed, and their
    markers are shifted along the curve.
    """
    if len(sweeps) > MOST_CURVES:
        return _draw_ends(axes, sweeps)
    curves = [[row["bound"] for row in rows] for _, rows in sweeps]
    near = 0.002 * max(max(max(c) for c in curves) - min(min(c) for c in curves), 1e-9)
    for number, (entry, rows) in enumerate(sweeps):
        alike = [coincide(curves[number], other, near) for other in curves]
        _draw_curve(axes, entry, rows, sum(alike[:number]), sum(alike[number + 1 :]))
    longest = max((rows for _, rows in sweeps), key=len)
    k, ceiling = ([row[key] for row in longest] for key in ("K", "ceiling"))
    axes.plot(k, ceiling, ":", color=GREY, label="ceiling log(K + 1)")
    _truths(axes, sweeps)
    axes.set(xlabel="negatives K", ylabel="nats", xscale="log")
    every = math.ceil(len(k) / TICKS)
    axes.set_xticks(k[::-1][::every], [f"{x:,.0f}" for x in k[::-1][::every]])
    axes.minorticks_off()
    _set_bottom(axes, min(row["low"] for _, rows in sweeps for row in rows))
    several = any(len(entry.runs) > 1 for entry, _ in sweeps)
    legend(axes, BANDS if several else "bands: 95% interval")


def coincide(one: list[float], other: list[float], near: float) -> bool:
    return len(one) == len(other) and all(
        abs(x - y) <= near for x, y in zip(one, other, strict=True)
    )


def _draw_curve(
    axes: Axes, entry: Entry, rows: list[dict[str, Any]], below: int, above: int
) -> None:
    """One curve with its band. Of the curves that coincide with it, `below` are drawn before it and
    `above` after it.
    """
    k, bound, low, high = ([row[key] for row in rows] for key in ("K", "bound", "low", "high"))
    style: Any = (2 * below, (3, 3)) if below else "-"
    look: Any = {"color": entry.colour, "marker": entry.marker}
    wide: Any = {"markersize": 4 + 2 * min(above, 6), "linewidth": 1.5 + 1.5 * min(above, 6)}
    shown: Any = {"markevery": []} if below else {}
    axes.plot(k, bound, linestyle=style, label=entry.label, **look, **wide, **shown)
    if below:
        share = below / (below + above + 1)
        x = [a ** (1 - share) * b**share for a, b in zip(k, k[1:], strict=False)]
        y = [a + share * (b - a) for a, b in zip(bound, bound[1:], strict=False)]
        axes.scatter(x, y, s=28, zorder=3, **look)
    axes.fill_between(k, low, high, color=entry.colour, alpha=0.12, linewidth=0)


def _draw_ends(axes: Axes, sweeps: list[Sweep]) -> None:
    """The bound of each checkpoint at its largest K, with its interval and its ceiling."""
    look: Any = {"ha": "center", "va": "bottom", "rotation": 90, "fontsize": 6}
    for number, (entry, rows) in enumerate(sweeps):
        last, place = rows[-1], entry.place
        error = [[last["bound"] - last["low"]], [last["high"] - last["bound"]]]
        mark: Any = {"color": entry.colour, "markersize": 5, "capsize": 2, "linewidth": 1.2}
        axes.errorbar(place, last["bound"], error, fmt=entry.marker, **mark)
        words = "ceiling log(K + 1)" if number == 0 else ""
        across = [place - 0.35, place + 0.35]
        axes.plot(across, [last["ceiling"]] * 2, ":", color=GREY, label=words)
        axes.text(place, last["high"], f" {last['bound']:.2f}", **look)
    _truths(axes, sweeps, curves=False)
    critics = {entry.label.rpartition(" (")[2] for entry, _ in sweeps}
    entries = [entry for entry, _ in sweeps]
    if len(critics) == 1:  # said once
        entries = [entry._replace(label=entry.label.rpartition(" (")[0]) for entry in entries]
    named_places(axes, entries)
    said = f"\n{critics.pop().rstrip(')')}" if len(critics) == 1 else ""
    axes.set(ylabel=f"nats, at the largest K{said}")
    highest = max(rows[-1]["high"] for _, rows in sweeps)
    low, high = axes.get_ylim()
    axes.set_ylim(low, max(high, highest + 0.12 * (highest - low)))  # room for the numbers
    _set_bottom(axes, min(rows[-1]["low"] for _, rows in sweeps))
    several = any(len(entry.runs) > 1 for entry, _ in sweeps)
    legend(axes, BANDS.replace("bands", "lines") if several else "lines: 95% interval")


def _set_bottom(axes: Axes, lowest: float) -> None:
    """Start at 0, or near the lowest value if this is below 0 or if all values are far above 0."""
    top = axes.get_ylim()[1]
    bottom = max(-2.0, min(0.0, lowest))
    if lowest > 0.4 * top:
        bottom = lowest - 0.15 * (top - lowest)
    axes.set_ylim(bottom=bottom)


def _truths(axes: Axes, sweeps: list[Sweep], curves: bool = True) -> None:
    """The truth, and the best possible bound at K: in black if the truth is the same for all
    checkpoints, else in the colour of the first checkpoint on each data set.
    """
    known: dict[Any, tuple[Entry, list[dict[str, Any]]]] = {}
    for entry, rows in sweeps:
        best = tuple(row.get("best_possible") for row in rows)
        known.setdefault((entry.data, entry.numbers["truth"], best), (entry, rows))
    shared, others = len({key[:2] for key in known}) == 1, max(1, len(known) - 1)
    for number, ((data, truth, _), (entry, rows)) in enumerate(known.items()):
        if truth is None:
            continue
        colour, of = (BLACK, "") if shared else (entry.colour, f" of {data or entry.label}")
        # dashes make both of two coinciding lines visible: each shows in the gaps of the other
        solid: Any = "-" if shared else (6 * number, (6, 6 * others))
        dashed: Any = "--" if shared else (3 * number, (3, 3 * others))
        if curves and "best_possible" in rows[0]:
            k, possible = ([row[key] for row in rows] for key in ("K", "best_possible"))
            label = f"best possible at K{of}"
            axes.plot(k, possible, color=colour, linestyle=dashed, linewidth=1, label=label)
        axes.axhline(truth, color=colour, linewidth=1, linestyle=solid)
        text, shift = f"truth{of} {truth:.2f}", (4, 3 if shared else 3 + 11 * number)
        look: Any = {"xycoords": ("axes fraction", "data"), "color": colour}
        # beside curves, the label is at the left end; without curves, the values of the bounds are
        # printed there, so the label is at the right end
        note(axes, text, (0 if curves else 1, truth), shift, **look)
