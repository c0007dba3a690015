"""Pictures of estimates compared with the truth: sprites with M contents, and sources of known
information.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from probes.report.figures import BLACK, COLOURS, note, picture

MARKS = {
    "infonce": ("o", COLOURS[0]),
    "alpha": ("s", COLOURS[1]),
    "nwj": ("^", COLOURS[2]),
    "ksg": ("x", COLOURS[5]),
}
PEER = ("d", COLOURS[3])
EDGE = 1.2  # nats; the right panel shows values down to this far below the truth
LEGEND = {
    "ko": "measured, 95% interval (mostly inside the dot)",
    "k-": "ideal critic with K negatives",
    "k:": "truth",
}


def truth(table: dict[str, Any], path: Path) -> None:
    """Above: measured values, the ideal critic and the truth against K, a colour for each value of
    the table's setting, such as M. Below: measured / ideal.
    """
    look: Any = {"figsize": (9, 8.6), "sharex": True, "height_ratios": (3, 1)}
    with picture(path, 2, 1, **look) as (_, (values, shares)):
        for content, colour in zip(table["contents"], COLOURS, strict=False):
            k = _content(values, shares, content, table["setting"], colour)
        _ceiling(values, k)
        for style, text in LEGEND.items():
            values.plot([], [], style, markersize=5.5, linewidth=1.3, label=text)
        values.set(title=table["title"])
        values.set(ylabel=f"InfoNCE, {table['side']}, nats")
        values.legend(loc="upper left", bbox_to_anchor=(0.01, 0.88))
        shares.axhline(95, color=BLACK, linewidth=1, linestyle="--")
        _beside(shares, 95, "95 %", BLACK)
        least = min(100 * row["share"] for content in table["contents"] for row in content["sweep"])
        title = f"Measured / ideal: {least:.1f} % or more"
        shares.set(title=title, ylabel="%", ylim=(min(94.4, least - 0.5), None))
        images = f"{table['images']:,} {table['split']} images"
        shares.set(xlabel=f"negatives K   ({table['critic']} critic, {images})")


def _content(
    values: Axes, shares: Axes, content: dict[str, Any], setting: str, colour: str
) -> np.ndarray:
    """The curves of one value of the setting; returns its K."""
    k, measured, low, high, ideal, share = (
        np.array([row[key] for row in content["sweep"]])
        for key in ("K", "measured", "low", "high", "ideal", "share")
    )
    interval = np.stack([measured - low, high - measured])
    bars: Any = {"fmt": "o", "color": colour, "elinewidth": 1.2}
    dots: Any = {"markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.6}
    values.axhline(content["truth"], color=colour, linewidth=1.2, linestyle=":")
    values.plot(k, ideal, color=colour, linewidth=1.4)
    values.errorbar(k, measured, interval, **bars, **dots)
    text = f"{setting} = {content['value']}\ntruth {content['truth']:.2f}"
    _beside(values, content["truth"], text, colour)
    shares.plot(k, 100 * share, color=colour, linewidth=1.4)
    shares.errorbar(k, 100 * share, 100 * interval / ideal, markersize=4, **bars)
    return k


def _beside(axes: Axes, height: float, text: str, colour: str) -> None:
    """A label in the right margin, at a height in the units of the axis."""
    place: Any = {"xycoords": ("axes fraction", "data"), "va": "center"}
    note(axes, text, (1, height), (8, 0), color=colour, **place)


def _ceiling(axes: Axes, negatives: np.ndarray) -> None:
    """Grey above log(K + 1), which no critic with K negatives exceeds; a tick at every second K."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(negatives[0] / 1.3, negatives[-1] * 1.3)
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    k = np.geomspace(*axes.get_xlim(), 200)
    axes.fill_between(k, np.log(k + 1), axes.get_ylim()[1], color="#f0f0f0", linewidth=0, zorder=0)
    text = "above log(K + 1): impossible for any critic with K negatives"
    axes.annotate(text, (0.03, 0.94), xycoords="axes fraction", color="#777777")
    axes.set_xticks(sorted({*negatives[::2], negatives[-1]}))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()


def calibration(found: dict[str, Any], path: Path) -> None:
    """Left: estimates and truth of every source. Right: estimate - truth, with 95% intervals; lower
    bounds should lie left of zero.
    """
    rows = found["rows"]
    columns = [key for key in MARKS if any(key in row["estimators"] for row in rows)]
    look: Any = {"figsize": (12, 2.2 + 0.3 * len(rows)), "sharey": True, "width_ratios": (1.3, 1)}
    with picture(path, 1, 2, **look) as (figure, (left, right)):
        right.axvspan(0, 0.5 * EDGE, color="#d1603d", alpha=0.07, linewidth=0)
        for place, row in enumerate(rows):
            _source(left, right, row, place, columns)
        for key in columns:
            side = next(row["estimators"][key]["side"] for row in rows if key in row["estimators"])
            _mark(left, [], [], MARKS[key], label=f"{key}: {side}")
        if "peer" in rows[0]:
            _mark(left, [], [], PEER, label="benchmark-mi's InfoNCE")
        right.axvline(0, color=BLACK, linewidth=1)
        left.set_yticks(range(len(rows)), [row["source"] for row in rows])
        left.set(title=f"Estimates from {found['pairs']:,} pairs of each source")
        left.set(xlabel="nats (◂: farther below)")
        left.set(ylim=(len(rows) - 0.4, -0.6))
        right.set(title="Estimate − truth, 95% intervals", xlim=(-1.05 * EDGE, 0.5 * EDGE))
        right.set(xlabel="nats (◂: farther below)")
        for axes in (left, right):
            axes.grid(axis="y", alpha=0.15)
        labels = left.get_legend_handles_labels()
        figure.legend(*labels, loc="outside lower center", ncols=6, fontsize=9)


def _source(left: Axes, right: Axes, row: dict[str, Any], place: int, columns: list[str]) -> None:
    """One source: its truth and each estimate on the left, the differences on the right."""
    span, label = [place - 0.42, place + 0.42], "truth" if place == 0 else None
    left.plot([row["truth"]] * 2, span, color=BLACK, linewidth=1.6, label=label)
    for number, key in enumerate(columns):
        if entry := row["estimators"].get(key):
            height = place + 0.17 * (number - (len(columns) - 1) / 2)
            if entry["value"] < -EDGE:  # NWJ can be at -1,000
                _arrow(left, height, MARKS[key][1])
            else:
                _mark(left, entry["value"], height, MARKS[key])
            error = 1.96 * entry["error"]
            _difference(right, entry["value"] - row["truth"], height, error, MARKS[key])
    if "peer" in row:
        _mark(left, row["peer"], place, PEER)
        _difference(right, row["peer"] - row["truth"], place, 0.0, PEER)


def _mark(axes: Axes, x: Any, y: Any, mark: tuple[str, str], label: str | None = None) -> None:
    face = "none" if mark == PEER else mark[1]
    axes.plot(x, y, mark[0], color=mark[1], markersize=4, markerfacecolor=face, label=label)


def _arrow(axes: Axes, height: float, colour: str) -> None:
    """At the edge, for a number that is farther below."""
    axes.plot(-EDGE, height, "<", color=colour, markersize=4)


def _difference(
    axes: Axes, value: float, height: float, error: float, mark: tuple[str, str]
) -> None:
    """One estimate minus its truth; an arrow at the edge if it is farther below."""
    marker, colour = mark
    if value < -EDGE:
        _arrow(axes, height, colour)
        return
    look: Any = {"markersize": 4, "linewidth": 1, "mfc": "none" if mark == PEER else colour}
    axes.errorbar(value, height, xerr=error or None, fmt=marker, color=colour, **look)
