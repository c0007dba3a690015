"""Figures and sentences of rate and distortion."""

import math
from collections.abc import Callable
from typing import Any

from core.information.units import nats
from probes.probe import Chart, Entry, Numbers
from probes.report.figures import lower_hull
from probes.report.page import vega
from probes.report.page.bound_charts import NEAR
from probes.report.page.vega import INK, QUIET, Row, Spec

LINES = 10  # most lines of equal D + R


def said_of_rate(numbers: Numbers) -> list[str]:
    """R and the bounds on I(X; Z) in words, and what they do not say."""
    low, r = numbers["lower"]["value"], numbers["rate"]["value"]
    high = min(numbers["upper"]["value"], r)
    lines = [
        f"A code carries at least {low:.2f} and at most {high:.2f} nats about its image.",
        f"The rate R = {r:.2f} nats [{numbers['rate']['low']:.2f}, {numbers['rate']['high']:.2f}]"
        " is an upper bound on this information: R also counts how far the codes are from the"
        " prior. It does not say what the information is about, or how good a reconstruction is.",
    ]
    if low > numbers["ceiling"] - NEAR:
        count = round(math.exp(numbers["ceiling"]))  # fewer than all images if there are many
        lines.append(
            f"The lower bound is about log n = log {count:,}, the most that it can show with n"
            " images, so the true value may be anywhere between the two bounds."
        )
    active, all_ = numbers["active_units"], numbers["latent_dimensions"]
    clear = f"No sign of collapse: {active:g} of {all_:g} dimensions of the code are active."
    lines.append(numbers.get("sentence", clear))
    return lines


def plane(entries: list[Entry]) -> list[Chart]:
    """Every VAE as a point (R, D) with its intervals, on lines of equal D + R."""
    rows: list[Row] = []
    for entry in entries:
        if "distortion" in entry.numbers:
            rows.append(_point(entry, entry.numbers))
    if not rows:
        return []
    files, known = _files(entries), _known(entries)
    said = " On a dashed line, D + R is the length of a real lossless file." if files else ""
    if known:
        said += " The solid line is R(D) of the data, which is known: no model can be below it."
    signs = " D is comparable only among decoders of the same likelihood."
    if min(row["D"] for row in rows) < 0:
        signs += " It may be negative: for continuous pixels p is a density, which may exceed 1."
    return [
        Chart(
            "Rate and distortion of the VAEs",
            "Rate R is an upper bound on I(X; Z); distortion D is -log p(x|z), in nats an image."
            " A smaller D means a better reconstruction, and a smaller R means less information in"
            " the code. D + R is an upper bound on -log p(x). It is constant on each grey line, and"
            " its value is at the left end of the line. A lower line is better." + signs + said,
            _spec(rows, [], files, known),
        )
    ]


def _files(entries: list[Entry]) -> list[Row]:
    """For each checkpoint with a lossless file, its length in nats an image, for a line D + R."""
    found = []
    for entry in entries:
        if (file := entry.other.get("compression")) and "distortion" in entry.numbers:
            length = nats(file["gross"] * file["image_values"])
            more = {"file": length, "bits_per_dim": file["gross"], "images": file["images"]}
            found.append(vega.row(entry, **more))
    return found


def _known(entries: list[Entry]) -> list[Row]:
    """R(D) of the data, if it is known and the same for all checkpoints."""
    curves = [entry.numbers.get("reference", {}).get("points") for entry in entries]
    if not curves or not curves[0] or any(curve != curves[0] for curve in curves):
        return []
    return [{"R": point["rate"], "D": point["distortion"]} for point in curves[0]]


def heads(entries: list[Entry]) -> Chart:
    """The rate-distortion curves of frozen features: a point for each trained head."""
    rows: list[Row] = []
    hulls: list[Row] = []
    for entry in entries:
        points = [entry.numbers["nothing"], *entry.numbers["points"]]
        rows += [_point(entry, point) for point in points]
        places = [(point["rate"]["value"], point["distortion"]["value"]) for point in points]
        hulls += [vega.row(entry, R=r, D=d) for r, d in lower_hull(places)]
    return Chart(
        "Rate-distortion curves of frozen features",
        "One small VAE head was trained for each beta (the price of a nat of rate) on the frozen"
        " features of each checkpoint. All values above a curve are achievable from these"
        " features.",
        _spec(rows, hulls, [], []),
    )


def _point(entry: Entry, found: dict[str, Any]) -> Row:
    r, d = found["rate"], found["distortion"]
    more = {"beta": found["beta"]} if "beta" in found else {}
    ends = {"R_low": r["low"], "R_high": r["high"], "D_low": d["low"], "D_high": d["high"]}
    total = r["value"] + d["value"]
    return vega.row(entry, R=r["value"], D=d["value"], D_plus_R=total, **ends, **more)


def _spec(rows: list[Row], hulls: list[Row], files: list[Row], known: list[Row]) -> Spec:
    right = 1.15 * max(row["R_high"] for row in rows) or 1.0
    low, high = min(row["D_low"] for row in rows), max(row["D_high"] for row in rows)
    sums = {row["run"]: row["D_plus_R"] for row in rows}
    over = [row["file"] - sums[row["run"]] for row in files if row["run"] in sums]
    high += max([0.0, *(gap for gap in over if gap < 2 * (high - low + right))])
    margin = max(0.15 * (high - low), 0.3 * right)
    bottom, top = low - margin, high + margin
    x_scale = {"domain": [0, right], "nice": False, "clamp": False}
    y_scale = {"domain": [bottom, top], "nice": False, "zero": False}

    def at(x: str, y: str) -> Spec:
        return {
            "x": {"field": x, "type": "quantitative", "scale": x_scale}
            | {"title": "rate R, nats an image: upper bound on I(X; Z)", "axis": {"grid": False}},
            "y": {"field": y, "type": "quantitative", "scale": y_scale}
            | {"title": "distortion D, nats an image", "axis": {"grid": False}},
        }

    shown = vega.tooltip(
        ("checkpoint", ""), ("beta", ".4g"), ("R", ",.3f"), ("R_low", ",.3f"), ("R_high", ",.3f"),
        ("D", ",.3f"), ("D_low", ",.3f"), ("D_high", ",.3f"), ("D_plus_R", ",.3f"),
    )  # fmt: skip
    layers = [*_equal_sums(bottom, top, right, at), *_lines(hulls, files, known, right, at)]
    bars = {"type": "rule", "clip": True, "strokeWidth": 1.4}
    return vega.layered(
        rows,
        [
            *layers,
            {
                "mark": bars,
                "encoding": at("R_low", "D") | {"x2": {"field": "R_high"}} | vega.by_run(),
            },
            {
                "mark": bars,
                "encoding": at("R", "D_low") | {"y2": {"field": "D_high"}} | vega.by_run(),
            },
            {
                "mark": vega.POINT | {"size": 90},
                "encoding": at("R", "D") | vega.by_run(shape=True) | shown,
            },
        ],
    )


def _lines(
    hulls: list[Row],
    files: list[Row],
    known: list[Row],
    right: float,
    at: Callable[[str, str], Spec],
) -> list[Spec]:
    """Hulls of points, the known R(D), and the lines D + R = length of a file."""
    line: Spec = {"type": "line", "clip": True}
    layers: list[Spec] = []
    if hulls:
        ordered = {"order": {"field": "R"}}
        layers.append(
            {
                "data": {"values": hulls},
                "mark": line | {"strokeWidth": 2},
                "encoding": at("R", "D") | vega.by_run() | ordered,
            }
        )
    if known:
        layers.append(
            {
                "data": {"values": known},
                "mark": line | {"color": INK, "strokeWidth": 1.6},
                "encoding": at("R", "D") | {"order": {"field": "R"}},
            }
        )
    if files:
        ends = [row | {"R": r, "D": row["file"] - r} for row in files for r in (0.0, right)]
        of_file = vega.tooltip(
            ("checkpoint", ""), ("file", ",.2f"), ("bits_per_dim", ".4f"), ("images", ",.0f")
        )
        layers.append(
            {
                "data": {"values": ends},
                "mark": line | {"strokeDash": [6, 4], "strokeWidth": 1.6},
                "encoding": at("R", "D") | vega.by_run() | of_file,
            }
        )
    return layers


def _equal_sums(
    bottom: float, top: float, right: float, at: Callable[[str, str], Spec]
) -> list[Spec]:
    """Lines of equal D + R with their values."""
    totals = _rounds(bottom, top + right)
    iso = [{"total": total, "R": r, "D": total - r} for total in totals for r in (0.0, right)]
    line: Spec = {"type": "line", "clip": True}
    places = [
        {"total": total, "R": max(0.0, total - top), "D": min(total, top)}
        for total in totals
        if total - top < 0.9 * right and total > bottom
    ]
    return [
        {
            "data": {"values": iso},
            "mark": line | {"color": QUIET, "strokeWidth": 0.6, "opacity": 0.6},
            "encoding": at("R", "D") | {"detail": {"field": "total"}},
        },
        *vega.label(
            places,
            at("R", "D") | {"text": {"field": "total", "format": ","}},
            align="left",
            baseline="top",
            dx=6,
            dy=3,
        ),
    ]


def _rounds(low: float, high: float) -> list[float]:
    """About `LINES` round numbers, or fewer, between `low` and `high`."""
    least = (high - low) / LINES
    if not least > 0:
        return []
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= least * 0.999)
    first = math.ceil(low / step)
    return [
        round((first + number) * step, 10)
        for number in range(2 * LINES)
        if (first + number) * step < high
    ]
