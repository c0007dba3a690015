"""Figures and sentences of bounds on information: bounds against K, and the "bridge", which shows
all bounds on one quantity side by side.
"""

import math
from collections.abc import Sequence
from typing import Any

from core.information.units import bits
from core.information.verdict import FLAT, GAIN, RISING, UNKNOWN
from probes.probe import Bound, Chart, Entry, Numbers
from probes.report.page import vega
from probes.report.page.vega import INK, QUIET, Row, Spec
from probes.report.sweep_figures import coincide

MEANINGS = {
    "I(V1; V2)": "the information that two views of an image share",
    "I(X; Z)": "the information between an image and its code",
}
FEW = 6  # checkpoints; up to this number, curves that coincide get different widths
HEADLINE = "critic of the table"
NEAR = 0.05  # nats; a bound that is nearer to its ceiling can hardly be larger
THIN = 2.5  # pixels of a curve
BROADER = "Where two curves coincide, the one below is drawn broader."
CRITICS = {  # what a critic is, as the end of a sentence
    "common": "a small critic that is trained in the same way for every checkpoint",
    "native": "the method's own critic",
    "native, refitted scale": "the method's own critic with a refitted temperature",
}
VERDICTS = {
    "converged": "Twice as many negatives would add less than"
    f" {math.ceil(100 * FLAT * math.log(2)) / 100:.2f} nats, or less than"
    f" {math.ceil(1000 * RISING * math.log(2)) / 10:.1f} % of the bound. Twice as many training"
    f" pairs would add less than {100 * GAIN:.0f} % of the bound, or no more than chance explains."
    f" The upper end of the interval of this gain is at most {100 * UNKNOWN:.0f} % of the bound."
    " The encoder, and every critic that was tried, may still lose information.",
    "K-limited": "The number of negatives limits the bound: it still rises with K.",
    "data-limited": "The number of training images limits the bound: a critic that is trained on"
    " half of them reads notably less, or the images are too few to exclude this.",
    "saturated": "The bound is near the largest value that it can show, so the true value may be"
    " far above it.",
    "critic-limited": "The critic limits the bound: the pairs contain more information than this"
    " critic reads, or no trained critic shows that they do not.",
    "nothing found": "Nothing was found: the interval of the bound reaches down to zero or below.",
}


def gap(large: float, small: float, digits: int = 3) -> float:
    """The difference of two numbers as the page rounds them, so that a reader can check it."""
    return round(large, digits) - round(small, digits)


def said_of_information(numbers: Numbers, name: str, critic: dict[str, Any]) -> list[str]:
    """The bound of one critic in words: its value, what limits it, the truth, the certificate."""
    last, truth = critic["sweep"][-1], numbers["truth"]
    of = "of what two views share" if truth is None else f"of the {truth:.3f} that two views share"
    interval = interval_word([last.get("seeds", 1)])
    lines = [
        f"This checkpoint keeps at least {last['bound']:.3f} nats {of}"
        f" ({bits(last['bound']):.2f} bits; {interval}: {last['low']:.3f} to"
        f" {last['high']:.3f}).",
        f"The bound is computed with {CRITICS.get(name, f'the critic {name}')} and K ="
        f" {last['K']:,.0f} negatives. No critic can show more than log(K + 1) ="
        f" {last['ceiling']:.2f} nats at this K.",
        *_said_of_verdict(numbers, name, critic),
    ]
    if truth is not None:
        lines.append(_said_of_truth(truth, last))
    if proof := critic.get("certificate"):
        lines.append(
            "A stricter guarantee (certificate), which holds for any distribution: the same"
            f" information is at least {proof['low']:.2f} nats, with"
            f" {100 * proof['confidence']:g} % confidence."
        )
    return lines


def _said_of_verdict(numbers: Numbers, name: str, critic: dict[str, Any]) -> list[str]:
    """The verdict and the numbers behind it."""
    verdict, rows = critic["verdict"], critic["sweep"]
    lines = [f"Verdict on I(V1; V2): {verdict}. {VERDICTS.get(verdict, '')}".strip()]
    why = []
    if len(rows) > 1:
        before, last = rows[-2:]
        change = f"{gap(last['bound'], before['bound']):+.3f}".replace("-", "−")
        ends = f"from K = {before['K']:,.0f} to {last['K']:,.0f}"
        why.append(f"{ends} the bound changed by {change} nats")
    if more := critic.get("doubling"):
        why.append(f"the second half of the training pairs added {more['gain']:.3f} nats")
    others = [
        f"{found['sweep'][-1]['bound']:.3f} ({other})"
        for other, found in numbers["critics"].items()
        if other != name
    ]
    if others:
        why.append(f"other critics give {', '.join(others)} nats")
    return lines + ([f"The evidence: {'; '.join(why)}."] if why else [])


def _said_of_truth(truth: float, last: dict[str, Any]) -> str:
    """How much of the truth the bound misses, and where it is lost."""
    said = f"The true information is known: {truth:.3f} nats."
    kind = "spread over seeds" if last.get("seeds", 1) > 1 else "interval"
    if last["low"] > truth:
        return f"{said} The bound is above it by more than its {kind}."
    if truth < last["bound"]:
        return f"{said} The bound is above it, but within its {kind}."
    said += f" The bound misses {gap(truth, last['bound']):.3f} nats of it."
    ideal = last.get("best_possible")
    if ideal is None or ideal < last["bound"]:
        return said
    return (
        f"{said} The ideal critic reaches {ideal:.3f} at this K. The bound is"
        f" {gap(ideal, last['bound']):.3f} nats below that: the encoder, or every critic that was"
        " tried, loses these nats."
    )


def sweep(entries: list[Entry], headlines: Sequence[str]) -> Chart:
    """Bounds against K for every critic, with the ceiling, the ideal critic's curve and the truth.
    `headlines`: for each entry, the critic whose bound the table shows.
    """
    rows: list[Row] = []
    for entry, headline in zip(entries, headlines, strict=True):
        for name, critic in entry.numbers["critics"].items():
            for found in critic["sweep"]:
                kept = {key: found[key] for key in ("K", "bound", "low", "high", "ceiling")}
                ideal = {"ideal": found["best_possible"]} if "best_possible" in found else {}
                shown = [name] + [HEADLINE] * (name == headline)
                more = {"critic": name, "verdict": critic["verdict"], "shown": shown}
                rows.append(vega.row(entry, **kept, **ideal, **more, truth=entry.numbers["truth"]))
    _widen(rows)
    critics = list(dict.fromkeys(name for row in rows for name in row["shown"]))
    critics.sort(key=lambda name: name != HEADLINE)
    ideals, truths = (
        any("ideal" in row for row in rows),
        any(row["truth"] is not None for row in rows),
    )
    return Chart(
        "Between views: lower bounds on I(V1; V2) against the number of negatives K",
        "Each curve is a lower bound on the information that two views of an image share, with its"
        f" {_interval(entries)}. No critic with K negatives can exceed the dotted ceiling"
        " log(K + 1)."
        + (f" {BROADER}" if any(row["width"] > THIN for row in rows) else "")
        + _critics_said(critics, headlines),
        vega.layered(rows, _sweep_layers(rows), [{"name": "choice", "value": HEADLINE}]),
        tuple(critics),
        "critic",
        lines=(
            ("1 3", "ceiling log(K + 1)"),
            *[("6 4", "ideal critic")] * ideals,
            *[("", "truth")] * truths,
        ),
    )


def _interval(entries: list[Entry]) -> str:
    return interval_word([len(entry.runs) for entry in entries])


def interval_word(seeds: Sequence[int]) -> str:
    """What the ends of bounds are, for checkpoints of these numbers of seeds: `groups.mean` puts
    the spread over seeds in the place of the interval.
    """
    if max(seeds) == 1:
        return "95 % interval"
    if min(seeds) > 1:
        return "mean ± standard deviation over seeds"
    return "95 % interval (for several seeds: mean ± standard deviation over seeds)"


def _critics_said(names: Sequence[str], headlines: Sequence[str]) -> str:
    """What the critics of a figure are, and which of them the table shows."""
    known = [name for name in names if name in CRITICS]
    if len(known) < 2:
        return ""
    said = "; ".join(f"“{name}” is {CRITICS[name]}" for name in known)
    shown = " or ".join(f"“{name}”" for name in known if name in headlines)
    return f" Critics: {said}." + (f" The table shows {shown}." if shown else "")


def _widen(rows: list[Row]) -> None:
    """Draw a curve broader for each later curve that coincides with it, so that all are visible.
    With many checkpoints no curve is broader, because the reader of the page can mark checkpoints.
    """
    few = len({row["run"] for row in rows}) <= FEW
    curves: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        curves.setdefault((row["run"], row["critic"]), []).append(row)
    spread = max(row["bound"] for row in rows) - min(row["bound"] for row in rows)
    held = list(curves.values())
    for number, curve in enumerate(held):
        above = few and sum(
            coincide([r["bound"] for r in curve], [r["bound"] for r in other], 0.004 * spread)
            for other in held[number + 1 :]
            if other[0]["run"] != curve[0]["run"] and {*other[0]["shown"]} & {*curve[0]["shown"]}
        )
        for row in curve:
            row |= {"width": THIN + 4 * min(above, 3), "size": 60 + 120 * min(above, 3)}


def _sweep_layers(rows: list[Row]) -> list[Spec]:
    x = {"field": "K", "type": "quantitative", "title": "negatives K"}
    x |= vega.axis(row["K"] for row in rows)
    chosen: Spec = {"transform": [{"filter": "indexof(datum.shown, choice) >= 0"}]}
    known = [row["truth"] for row in rows if row["truth"] is not None]
    low, high = min(row["low"] for row in rows), max([row["high"] for row in rows] + known)
    ends = [max(low, -2.0), high + 0.12 * max(high - low, 1e-6)]

    def y(field: str) -> Spec:
        scale = {"scale": {"domain": ends, "nice": False, "zero": False}}
        return {"x": x, "y": {"field": field, "type": "quantitative", "title": "nats"} | scale}

    band = y("low") | {"y2": {"field": "high"}}
    shown = vega.tooltip(
        ("checkpoint", ""), ("critic", ""), ("K", ",.0f"), ("bound", ".4f"), ("low", ".4f"),
        ("high", ".4f"), ("ceiling", ".4f"), ("ideal", ".4f"), ("verdict", ""),
    )  # fmt: skip
    first: Spec = {"aggregate": [{"op": "min", "field": "ceiling", "as": "ceiling"}]}
    rule: Spec = {"type": "line", "color": INK, "strokeWidth": 1, "clip": True}
    layers: list[Spec] = [
        {
            "transform": [first | {"groupby": ["K"]}],
            "mark": rule | {"strokeDash": [1, 3], "color": QUIET, "strokeWidth": 1.6},
            "encoding": y("ceiling"),
        }
    ]
    if any("ideal" in row for row in rows):
        ideal: Spec = {"filter": "isValid(datum.ideal)"}
        layers.append(
            {
                "transform": [ideal],
                "mark": rule | {"strokeDash": [6, 4]},
                "encoding": y("ideal") | {"detail": {"field": "truth"}},
            }
        )
    if truths := sorted({row["truth"] for row in rows if row["truth"] is not None}):
        layers.append(_truth([{"truth": truth} for truth in truths], "y"))
    return [
        *layers,
        chosen
        | {
            "mark": {"type": "area", "clip": True},
            "encoding": band | vega.by_run(0.18, curve="critic"),
        },
        chosen
        | {
            "mark": {"type": "line", "clip": True},
            "encoding": y("bound")
            | vega.by_run(curve="critic")
            | {"strokeWidth": {"field": "width", "type": "quantitative", "scale": None}},
        },
        chosen
        | {
            "mark": vega.POINT | {"clip": True},
            "encoding": y("bound")
            | vega.by_run(shape=True)
            | {"size": {"field": "size", "type": "quantitative", "scale": None}}
            | shown,
        },
    ]


def _truth(values: list[Row], channel: str) -> Spec:
    """Lines at the known values of a quantity, labelled."""
    place = {"field": "truth", "type": "quantitative"}
    text: Spec = {"type": "text", "color": INK, "fontSize": 12}
    if channel == "y":
        text |= {"align": "right", "baseline": "bottom", "dy": -3, "x": "width"}
    else:
        text |= {"align": "center", "baseline": "bottom", "dy": -3, "y": 0}
    label = {"value": "truth"} if len(values) == 1 else {"field": "truth", "format": ".2f"}
    return {
        "data": {"values": values},
        "layer": [
            {"mark": {"type": "rule", "color": INK, "strokeWidth": 1.4}},
            {"mark": text, "encoding": {"text": label}},
        ],
        "encoding": {channel: place},
    }


def bridge(bounds: list[tuple[Entry, list[Bound]]]) -> list[Chart]:
    """For each quantity, what every checkpoint is known to carry: lower bounds are triangles that
    point right, upper bounds are triangles that point left, and the true value lies between both.
    """
    quantities = list(dict.fromkeys(bound.quantity for _, held in bounds for bound in held))
    return [_of_quantity(quantity, bounds) for quantity in quantities]


def _of_quantity(quantity: str, bounds: list[tuple[Entry, list[Bound]]]) -> Chart:
    rows: list[Row] = []
    spans: list[Row] = []
    for entry, held in bounds:
        mine = [bound for bound in held if bound.quantity == quantity]
        for bound in mine:
            about = {key: getattr(bound, key) for key in ("side", "name", "value", "low", "high")}
            rows.append(vega.row(entry, **about, bits=bits(bound.value)))
        ends = {
            side: [bound.value for bound in mine if bound.side == side]
            for side in ("lower", "upper")
        }
        if ends["lower"] and ends["upper"]:
            low, high = max(ends["lower"]), min(ends["upper"])
            spans.append(vega.row(entry, at_least=low, at_most=max(low, high)))
        elif mine:
            least = max(ends["lower"] or [bound.value for bound in mine])
            spans.append(vega.row(entry, at_least=0 if ends["upper"] else least, at_most=least))
    _drop_far(rows, spans)
    truths = {bound.truth for _, held in bounds for bound in held if bound.quantity == quantity}
    known = sorted(truth for truth in truths if truth is not None)
    close = not any(row["side"] == "upper" for row in rows)
    spec = vega.layered(
        rows,
        [
            *([_truth([{"truth": truth} for truth in known], "x")] if known else []),
            *_bridge_layers([s for s in spans if s["at_least"] < s["at_most"]], zero=not close),
        ],
    )
    spec["height"] = 34 * max(1, len(spans)) + 8
    meaning = MEANINGS.get(quantity, "")
    said = "The axis does not begin at 0, so that close values differ visibly." if close else ""
    return Chart(f"{quantity}{': ' * bool(meaning)}{meaning}", said, spec)


def _drop_far(rows: list[Row], spans: list[Row]) -> None:
    """Leave out upper bounds that are far above a tighter one: the axis would be too long."""
    for span in spans:
        limit = 2 * span["at_most"]
        rows[:] = [
            row
            for row in rows
            if row["run"] != span["run"] or row["side"] == "lower" or row["value"] <= limit
        ]


def _bridge_layers(spans: list[Row], zero: bool) -> list[Spec]:
    y: Spec = {"field": "checkpoint", "type": "nominal", "title": None, "sort": {"field": "run"}}
    y |= {"axis": {"labelLimit": 130, "ticks": False, "domain": False, "labelPadding": 8}}

    def x(field: str) -> Spec:
        scale = {"scale": {"zero": zero, "nice": True}}
        return {"y": y, "x": {"field": field, "type": "quantitative", "title": "nats"} | scale}

    ends = x("low") | {"x2": {"field": "high"}}
    shown = vega.tooltip(
        ("checkpoint", ""), ("side", ""), ("name", ""), ("value", ".4f"), ("low", ".4f"),
        ("high", ".4f"), ("bits", ".3f"),
    )  # fmt: skip
    between = vega.tooltip(("checkpoint", ""), ("at_least", ".4f"), ("at_most", ".4f"))
    point = {"type": "point", "filled": True, "size": 110}
    sides = {"lower": "triangle-right", "upper": "triangle-left"}
    shape = {"scale": {"domain": list(sides), "range": list(sides.values())}, "legend": None}
    span = x("at_least") | {"x2": {"field": "at_most"}}
    held: Spec = {
        "data": {"values": spans},
        "mark": {"type": "bar", "height": 10},
        "encoding": span | vega.by_run(0.3) | between,
    }
    return [
        *([held] if spans else []),
        {"mark": {"type": "rule", "strokeWidth": 2}, "encoding": ends | vega.by_run()},
        {
            "mark": point,
            "encoding": x("value")
            | vega.by_run()
            | {"shape": {"field": "side", "type": "nominal"} | shape}
            | shown,
        },
    ]
