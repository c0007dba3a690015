"""Parts of Vega-Lite specifications that all figures of the page share.

Texts of reports are values of data, never names of fields, formats or expressions. Colours are
variables of the page's style sheet, which has one value for a light and one for a dark page.
"""

import math
from collections.abc import Sequence
from typing import Any

from probes.probe import Entry
from probes.report.figures import COLOURS

Spec = dict[str, Any]
Row = dict[str, Any]
# Eight shapes that differ at a small size; with ten colours there are 40 different looks.
SHAPES: tuple[str, ...] = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
SHAPES += ("triangle-right", "triangle-left")
INK, QUIET = "var(--ink)", "var(--quiet)"
FAINT = 0.12  # opacity of checkpoints that are not marked, while others are
MARKED = "!length(marked) || indexof(marked, datum.run) >= 0"


def layered(rows: Sequence[Row], layers: Sequence[Spec], params: Sequence[Spec] = ()) -> Spec:
    """A figure of several layers on one table, with the parameter "marked": the checkpoints that
    the reader has marked.
    """
    marked: list[Spec] = [{"name": "marked", "value": []}]
    return {
        "data": {"values": list(rows)},
        "params": [*marked, *params],
        "layer": list(layers),
        "width": "container",
    }


def lines(rows: Sequence[Row], x: str, y: str) -> Spec:
    """Curves of "value" against "x", one for each checkpoint and "curve"."""
    channels = {
        "x": {"field": "x", "type": "quantitative", "title": x, **axis(row["x"] for row in rows)},
        "y": {"field": "value", "type": "quantitative", "title": y, "scale": {"zero": False}},
    }
    shown = tooltip(("checkpoint", ""), ("curve", ""), ("x", ""), ("value", ""))
    return layered(
        rows,
        [
            {"mark": {"type": "line"}, "encoding": channels | by_run(curve="curve")},
            {"mark": POINT, "encoding": channels | by_run(shape=True) | shown},
        ],
    )


POINT: Spec = {"type": "point", "filled": True, "size": 60}


def by_run(opacity: float = 1.0, shape: bool = False, curve: str = "") -> Spec:
    """The colour, the shape and the opacity of a checkpoint. Lines are divided by checkpoint (many
    checkpoints share a colour) and by the field `curve`.
    """
    made: Spec = {
        "detail": [{"field": name} for name in ("run", curve) if name],
        "color": {"field": "colour", "type": "nominal", "scale": None},
        "opacity": {"condition": {"test": MARKED, "value": opacity}, "value": FAINT * opacity},
    }
    if shape:
        made["shape"] = {"field": "shape", "type": "nominal", "scale": None}
    return made


def tooltip(*fields: tuple[str, str]) -> Spec:
    """A tooltip of (field, format), in this order. A field with an empty format is shown as a
    text.
    """
    return {
        "tooltip": [
            {"field": name, "title": name.replace("_", " ")}
            | ({"type": "quantitative", "format": form} if form else {"type": "nominal"})
            for name, form in fields
        ]
    }


def label(values: list[Row], encoding: Spec, **mark: Any) -> list[Spec]:
    """Texts in a figure on a halo of the page's colour, so that no line strikes them through."""
    text: Spec = {"type": "text", "color": QUIET, "fontSize": 12} | mark
    halo = text | {"color": "var(--paper)", "stroke": "var(--paper)", "strokeWidth": 5}
    return [
        {"data": {"values": values}, "mark": look, "encoding": encoding} for look in (halo, text)
    ]


def axis(values: Any) -> Spec:
    """A logarithmic scale of base 2 for positive values that span a factor of 8 or more."""
    held = list(values)
    wide = bool(held) and min(held) > 0 and max(held) >= 8 * min(held)
    if not wide:
        return {"scale": {"zero": False}, "axis": {"grid": False}}
    ticks = sorted({2.0**p for p in range(int(math.log2(min(held))), 64) if 2**p <= max(held)})
    every = math.ceil(len(ticks) / 8)
    domain = [min(held) * 0.88, max(held) * 1.2]  # room for whole markers
    return {
        "scale": {"type": "log", "base": 2, "domain": domain, "nice": False},
        "axis": {"values": ticks[::every], "format": ",.0f", "grid": False, "labelOverlap": True},
    }


def row(entry: Entry, **more: Any) -> Row:
    """A row of data that belongs to a checkpoint."""
    looks = {"colour": colour(entry.place), "shape": SHAPES[entry.place % len(SHAPES)]}
    return {"run": entry.place, "checkpoint": entry.label} | looks | more


def colour(place: int) -> str:
    """The colour of a checkpoint."""
    return f"var(--c{place % len(COLOURS)})"
