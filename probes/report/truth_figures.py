"""Pictures of estimates beside the truth: sprites of several sizes, and the suite of known
sources.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from probes.report.figures import COLOURS, STYLE, save

MARKS = {
    "infonce": ("o", COLOURS[0]),
    "alpha": ("s", COLOURS[1]),
    "nwj": ("^", COLOURS[2]),
    "ksg": ("x", COLOURS[5]),
}
EDGE = 1.2  # nats below the truth at which the right-hand panel ends


def truth(table: dict[str, Any], path: Path) -> None:
    """Above: measured values with intervals, the ideal critic's curve and log M against K, a colour
    for each M. Below: their ratio.
    """
    with plt.rc_context(STYLE):
        figure, (values, shares) = plt.subplots(
            2,
            1,
            figsize=(9, 8.6),
            sharex=True,
            gridspec_kw={"height_ratios": [3, 1]},
            layout="constrained",
        )
        for content, colour in zip(table["contents"], COLOURS, strict=False):
            k, measured, low, high, ideal, share = (
                np.array([row[key] for row in content["sweep"]])
                for key in ("K", "measured", "low", "high", "ideal", "share")
            )
            interval = np.stack([measured - low, high - measured])
            bars: Any = {"fmt": "o", "color": colour, "elinewidth": 1.2}
            values.axhline(content["log_M"], color=colour, linewidth=1.2, linestyle=":")
            values.plot(k, ideal, color=colour, linewidth=1.4)
            values.errorbar(
                k,
                measured,
                interval,
                markersize=5.5,
                markeredgecolor="white",
                markeredgewidth=0.6,
                **bars,
            )
            _beside(
                values,
                content["log_M"],
                f"M = {content['M']:,}\nlog M = {content['log_M']:.2f}",
                colour,
            )
            shares.plot(k, 100 * share, color=colour, linewidth=1.4)
            shares.errorbar(k, 100 * share, 100 * interval / ideal, markersize=4, **bars)
        _ceiling(values, k)
        for style, text in (
            ("ko", "measured, 95% interval (mostly inside the dot)"),
            ("k-", "ideal critic with K negatives"),
            ("k:", "truth, log M"),
        ):
            values.plot([], [], style, markersize=5.5, linewidth=1.3, label=text)
        values.set(
            title="I(V1; V2) of sprites with M contents: measured, ideal and true",
            ylabel=f"InfoNCE, {table['side']}, nats",
        )
        values.legend(loc="upper left", bbox_to_anchor=(0.01, 0.88))
        shares.axhline(95, color="#222222", linewidth=1, linestyle="--")
        _beside(shares, 95, "95 %", "#222222")
        least, at = min(
            (100 * row["share"], row["K"])
            for content in table["contents"]
            for row in content["sweep"]
        )
        shares.annotate(
            f"least: {least:.1f} %",
            (at, least),
            (-10, -4),
            textcoords="offset points",
            ha="right",
            va="center",
        )
        shares.set(title="Measured / ideal", ylabel="%", ylim=(min(94.4, least - 0.5), None))
        shares.set(
            xlabel=f"negatives K   ({table['critic']} critic, {table['images']:,}"
            f" {table['split']} images)"
        )
        save(figure, path)


def _beside(axes: Axes, height: float, text: str, colour: str) -> None:
    """A label in the right margin, at a height in the units of the axis."""
    place: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate(text, (1, height), (8, 0), va="center", color=colour, **place)


def _ceiling(axes: Axes, negatives: np.ndarray) -> None:
    """Grey where no critic comes with K negatives, above log(K + 1); ticks at every other K and at
    the last.
    """
    axes.set_xscale("log", base=2)
    axes.set_xlim(negatives[0] / 1.3, negatives[-1] * 1.3)
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    k = np.geomspace(*axes.get_xlim(), 200)
    axes.fill_between(k, np.log(k + 1), axes.get_ylim()[1], color="#f0f0f0", linewidth=0, zorder=0)
    axes.annotate(
        "above log(K + 1): out of reach of any critic with K negatives",
        (0.03, 0.6),
        xycoords="axes fraction",
        color="#777777",
    )
    axes.set_xticks(sorted({*negatives[::2], negatives[-1]}))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()


def calibration(found: dict[str, Any], path: Path) -> None:
    """Left: estimates and truth of every source. Right: estimates minus truth, with 95% intervals;
    lower bounds belong left of zero.
    """
    rows = found["rows"]
    columns = [key for key in MARKS if any(key in row["estimators"] for row in rows)]
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(
            1,
            2,
            figsize=(12, 2.2 + 0.3 * len(rows)),
            sharey=True,
            gridspec_kw={"width_ratios": [1.3, 1]},
            layout="constrained",
        )
        right.axvspan(0, 0.5 * EDGE, color="#d1603d", alpha=0.07, linewidth=0)
        for place, row in enumerate(rows):
            left.plot(
                [row["truth"]] * 2,
                [place - 0.42, place + 0.42],
                color="#222222",
                linewidth=1.6,
                label="truth" if place == 0 else None,
            )
            for number, key in enumerate(columns):
                marker, colour = MARKS[key]
                height = place + 0.17 * (number - (len(columns) - 1) / 2)
                if key in row["estimators"]:
                    entry = row["estimators"][key]
                    left.plot(entry["value"], height, marker, color=colour, markersize=4)
                    _difference(
                        right,
                        entry["value"] - row["truth"],
                        height,
                        1.96 * entry["error"],
                        marker,
                        colour,
                    )
            if "peer" in row:
                left.plot(
                    row["peer"], place, "d", color=COLOURS[3], markersize=4, markerfacecolor="none"
                )
                _difference(right, row["peer"] - row["truth"], place, 0.0, "d", COLOURS[3])
        for key in columns:
            marker, colour = MARKS[key]
            side = next(row["estimators"][key]["side"] for row in rows if key in row["estimators"])
            left.plot([], [], marker, color=colour, markersize=4, label=f"{key}: {side}")
        if "peer" in rows[0]:
            left.plot(
                [],
                [],
                "d",
                color=COLOURS[3],
                markersize=4,
                markerfacecolor="none",
                label="benchmark-mi's InfoNCE",
            )
        right.axvline(0, color="#222222", linewidth=1)
        left.set_yticks(range(len(rows)), [row["source"] for row in rows])
        left.set(
            title=f"Estimates of {found['pairs']:,} pairs a source",
            xlabel="nats",
            ylim=(len(rows) - 0.4, -0.6),
        )
        right.set(
            title="Estimate − truth, 95% intervals",
            xlabel="nats; ◂ is farther below",
            xlim=(-1.05 * EDGE, 0.5 * EDGE),
        )
        left.grid(axis="y", alpha=0.15)
        right.grid(axis="y", alpha=0.15)
        figure.legend(
            *left.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9
        )
        save(figure, path)


def _difference(
    axes: Axes, value: float, height: float, error: float, marker: str, colour: str
) -> None:
    """One estimate minus its truth, as an arrow at the edge where it is farther below."""
    if value < -EDGE:
        axes.plot(-EDGE, height, "<", color=colour, markersize=4)
    else:
        axes.errorbar(
            value,
            height,
            xerr=error or None,
            fmt=marker,
            color=colour,
            markersize=4,
            linewidth=1,
            mfc="none" if marker == "d" else colour,
        )
