"""The picture of bounds on images of known information."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from probes.report.figures import BLACK, COLOURS, GREY, picture

LOOKS = {  # estimator -> marker, colour
    "infonce": ("o", COLOURS[0]),
    "alpha": ("s", COLOURS[1]),
    "nwj": ("^", COLOURS[2]),
    "dv": ("v", COLOURS[3]),
    "smile": ("x", COLOURS[4]),
}
PEERS = {"mine": ("D", COLOURS[6], "MINE"), "dv": ("p", COLOURS[7], "DV as published")}
SIDES = {
    "infonce": "lower bound",
    "alpha": "lower bound",
    "nwj": "lower bound",
    "dv": "biased up",
    "smile": "not a bound",
}
KINDS = {
    "digits": "digits, one bit a cell",
    "backgrounds": "digits on backgrounds",
    "cells": "cells of 3 bits",
    "sprites": "sprites",
    "maps": "coloured digits, mapped",
}
Row = dict[str, Any]


def draw(rows: list[Row], path: Path) -> None:
    """A column for each kind of source, a row of panels for each number of pairs: values against
    the truth, or, for invertible maps, against the map.
    """
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    numbers = sorted({row["pairs"] for row in rows})
    look: Any = {"figsize": (3.4 * len(kinds) + 1, 3.1 * len(numbers) + 1.1), "squeeze": False}
    with picture(path, len(numbers), len(kinds), **look) as (figure, panels):
        for line, n in enumerate(numbers):
            for axes, kind in zip(panels[line], kinds, strict=True):
                having = [row for row in rows if (row["kind"], row["pairs"]) == (kind, n)]
                _panel(axes, having, kind)
                if line == 0:
                    axes.set_title(KINDS[kind], fontsize=10)
                if line == len(numbers) - 1 and kind != "maps":
                    axes.set_xlabel("truth, nats")
            panels[line, 0].set_ylabel(f"n = {n:,} pairs\nnats")
        _legend(figure, panels[0, 0])


def _panel(axes: Axes, rows: list[Row], kind: str) -> None:
    if not rows:
        axes.set_axis_off()
        return
    mapped = kind == "maps"
    rows = rows if mapped else sorted(rows, key=lambda row: row["truth"])
    truth = np.array([row["truth"] for row in rows])
    places = np.arange(len(rows)) if mapped else truth
    most = 1.3 * max(1.0, truth.max())
    axes.plot(*([places, truth] if mapped else [[0, most], [0, most]]), color=BLACK, linewidth=1.2)
    log_c = math.log(min(row["candidates"] for row in rows))
    axes.axhline(log_c, color=GREY, linestyle="--", linewidth=1)
    for number, (key, (marker, colour)) in enumerate(LOOKS.items()):
        having = [
            (place, row["estimators"][key])
            for place, row in zip(places, rows, strict=True)
            if key in row["estimators"]
        ]
        if having:
            at = np.array([place for place, _ in having])
            values = np.array([entry["value"] for _, entry in having])
            style = "" if mapped else "-"
            shift = 0.12 * (number - 2) if mapped else 0.0
            axes.plot(
                at + shift,
                values,
                marker + style,
                color=colour,
                markersize=4,
                linewidth=1,
            )
    for key, (marker, colour, _) in PEERS.items():
        for figure, face in (("training", "none"), ("held_out", colour)):
            peer = [row["peers"][key][figure] for row in rows]
            axes.plot(
                places,
                np.clip(peer, _FLOOR * most, most),
                marker,
                color=colour,
                markersize=5 if face == "none" else 3,
                markerfacecolor=face,
            )
    axes.set_ylim(1.2 * _FLOOR * most, most * 1.04)
    if mapped:
        names = [row["source"].split()[-1] for row in rows]
        axes.set_xticks(places, names, fontsize=8)
        axes.set_xlim(-0.5, len(rows) - 0.5)


# the lowest value that is drawn, as a share of the highest; values beyond either are moved to it
_FLOOR = -0.12


def _legend(figure: Any, axes: Axes) -> None:
    for key, (marker, colour) in LOOKS.items():
        axes.plot([], [], marker + "-", color=colour, markersize=4, label=f"{key}: {SIDES[key]}")
    for marker, colour, name in PEERS.values():
        about = f"{name}, training batches: not a bound"
        axes.plot([], [], marker, color=colour, markersize=5, markerfacecolor="none", label=about)
        axes.plot([], [], marker, color=colour, markersize=3, label=f"{name}, held out")
    axes.plot([], [], color=BLACK, linewidth=1.2, label="truth")
    axes.plot([], [], color=GREY, linestyle="--", linewidth=1, label="log C: InfoNCE's ceiling")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9
    )
