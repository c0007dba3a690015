"""The picture of a selection: the correlation of each label-free number with the accuracy of the
linear probe, and two scatters.
"""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from probes.report.figures import BLACK, COLOURS, GREY, MARKERS, drawable, picture

ALL, SOME, KNN = COLOURS[0], "white", COLOURS[1]


def draw(found: dict[str, Any], path: Path) -> Path:
    """A dot with its 95% interval for each number, sorted; filled if all checkpoints have it. On
    the right, the best of these numbers and the reference against accuracy.
    """
    rows = [row for row in found["rows"] if row["linear"]]
    whole = [r["name"] for r in rows if r["linear"]["checkpoints"] == found["checkpoints"]]
    best = next((name for name in whole if name != found["reference"]), "")
    scatters = [name for name in (best, found["reference"]) if name]
    height = max(5.2, 0.34 * len(rows) + 1.6)
    look: Any = {"figsize": (12.5, height), "width_ratios": (3, 2)}
    with picture(path, 1, 2, **look) as (figure, (left, right)):
        _dots(left, rows, found)
        right.axis("off")
        inner = right.get_subplotspec().subgridspec(2, 1, hspace=0.05)
        for place, name in zip(inner, scatters, strict=False):
            _scatter(figure.add_subplot(place), name, found, name == scatters[0])
    return path


def _dots(axes: Axes, rows: list[dict[str, Any]], found: dict[str, Any]) -> None:
    for place, row in enumerate(rows):
        mine = row["linear"]["pooled"]
        fill = ALL if row["linear"]["checkpoints"] == found["checkpoints"] else SOME
        axes.plot([mine["low"], mine["high"]], [place, place], color=ALL, linewidth=1.5, zorder=2)
        axes.plot(mine["value"], place, "o", color=ALL, markerfacecolor=fill, zorder=3)
        if row["knn"]:
            axes.plot(row["knn"]["pooled"]["value"], place, "x", color=KNN, markersize=5)
    axes.axvline(0, color=GREY, linewidth=1, linestyle="--")
    labels = [f"{row['name']}  (n = {row['linear']['checkpoints']})" for row in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(-1.05, 1.05))
    pooled = "ranks within each data set, pooled" if len(found["data"]) > 1 else "one data set"
    axes.set(title="Spearman's correlation with accuracy", xlabel=pooled)
    look: Any = {"linestyle": "-", "marker": "o", "color": ALL}
    handles = [
        Line2D([], [], **look, label="linear probe, 95% interval"),
        Line2D([], [], **look, markerfacecolor=SOME, label="the same; some runs lack the number"),
        Line2D([], [], linestyle="", marker="x", color=KNN, label="kNN"),
    ]
    axes.legend(handles=handles, loc="upper left", fontsize=8)


def _scatter(axes: Axes, name: str, found: dict[str, Any], key: bool) -> None:
    """Accuracy against a number: a colour for each method, a marker for each data set."""
    colours = dict(zip(found["methods"], COLOURS * 9, strict=False))
    markers = dict(zip(found["data"], MARKERS * 9, strict=False))
    for run in found["runs"]:
        if run[name] is not None:
            look: Any = {"color": colours.get(run["method"], BLACK), "markersize": 5, "alpha": 0.8}
            axes.plot(run[name], 100 * run["linear"], markers[run["data"]], **look)
    axes.set(xlabel=name, ylabel="linear probe, %")
    keys = [
        Line2D([], [], linestyle="", marker="o", color=colour, label=drawable(method))
        for method, colour in colours.items()
    ]
    if len(markers) > 1:
        keys += [
            Line2D([], [], linestyle="", marker=marker, color=GREY, label=drawable(data))
            for data, marker in markers.items()
        ]
    if key:
        axes.legend(handles=keys, fontsize=7, loc="best")
