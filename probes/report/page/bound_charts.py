"""Figures and sentences of bounds on information: the sweep over K, and the bridge between the
two families of methods.
"""

from collections.abc import Sequence
from typing import Any

from core.information.units import bits
from probes.probe import Bound, Chart, Entry, Numbers
from probes.report.page import vega
from probes.report.page.vega import INK, QUIET, Row, Spec
from probes.report.sweep_figures import coincide

MEANINGS = {
    "I(V1; V2)": "the information that two views of an image share",
    "I(X; Z)": "the information between an image and its code",
}
FEW = 6  # checkpoints whose coinciding curves are drawn with different widths
HEADLINE = "the critic of the table"
VERDICTS = {
    "converged": "Neither K, nor the training images, nor the critics that were tried limit it"
    " much.",
    "K-limited": "The number of negatives limits it: the bound still rises with K.",
    "data-limited": "The number of training images limits it: a critic that had half of them reads"
    " notably less.",
    "saturated": "It is near the most that it can show, so the true value may be far above.",
    "critic-limited": "The critic limits it: the pairs hold more than this critic reads.",
    "nothing found": "Nothing was found: its interval contains zero.",
}


def said_of_information(numbers: Numbers, name: str, critic: dict[str, Any]) -> list[str]:
    """The bound of one critic in words: its value, what limits it, the truth, the certificate."""
    last, verdict = critic["sweep"][-1], critic["verdict"]
    lines = [
        f"Two views of an image share at least {last['bound']:.3f} nats"
        f" ({bits(last['bound']):.2f} bits; 95 % interval {last['low']:.3f} to"
        f" {last['high']:.3f}), as the {name} critic reads with {last['K']:,.0f} negatives.",
        f"Verdict: {verdict}. {VERDICTS.get(verdict, '')} The ceiling at this K is"
        f" {last['ceiling']:.2f} nats.",
    ]
    if numbers["truth"] is not None:
        short = numbers["truth"] - last["bound"]
        if last["low"] > numbers["truth"]:
            said = "The bound is above it by more than its interval."
        elif short < 0:
            said = "The bound is above it, but within its interval."
        else:
            said = f"The bound misses {short:.3f} nats of it."
        lines.append(f"The true information is known: {numbers['truth']:.3f} nats. {said}")
    if proof := critic.get("certificate"):
        lines.append(
            f"With {100 * proof['confidence']:g} % confidence, and without any assumption about"
            f" the distribution, it is at least {proof['low']:.2f} nats."
        )
    return lines


def sweep(entries: list[Entry], headlines: Sequence[str]) -> Chart:
    """Bounds against K for every critic, with the ceiling, the ideal critic's curve and the truth;
    `headlines` names the critic of each entry that the table shows.
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
    return Chart(
        "Between views: lower bounds on I(V1; V2) against the number of negatives K",
        "Each curve is a lower bound on the information that two views of an image share, with its"
        " 95 % interval (of several seeds: mean ± standard deviation). No critic with K negatives"
        " can exceed the dotted ceiling log(K + 1). The dashed curve is that of the ideal critic,"
        " the full line the truth, where these are known.",
        vega.layered(rows, _sweep_layers(rows), [{"name": "choice", "value": HEADLINE}]),
        tuple(critics),
        "critic",
    )


def _widen(rows: list[Row]) -> None:
    """Draw a curve broader for each later one that coincides with it, so that all are visible. Of
    many checkpoints, the reader marks some.
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
            row |= {"width": 2.5 + 4 * min(above, 3), "size": 60 + 120 * min(above, 3)}


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
    inside = [row["K"] for row in rows if row["ceiling"] < 0.97 * ends[1]]
    if inside:
        words = {"type": "text", "align": "right", "dx": -8, "dy": -6, "fontSize": 12}
        layers.append(
            {
                "transform": [first | {"groupby": ["K"]}, {"filter": f"datum.K === {max(inside)}"}],
                "mark": words | {"color": QUIET},
                "encoding": y("ceiling") | {"text": {"value": "ceiling log(K + 1)"}},
            }
        )
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
    point right, upper bounds triangles that point left, and between both lies the true value.
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
    spec = vega.layered(
        rows,
        [
            *_bridge_layers(spans),
            *([_truth([{"truth": truth} for truth in known], "x")] if known else []),
        ],
    )
    spec["height"] = 34 * max(1, len(spans)) + 8
    meaning = MEANINGS.get(quantity, "")
    return Chart(f"{quantity}{': ' * bool(meaning)}{meaning}", "", spec)


def _drop_far(rows: list[Row], spans: list[Row]) -> None:
    """Leave out upper bounds that are far above a tighter one, which would squeeze the axis."""
    for span in spans:
        limit = 2 * span["at_most"]
        rows[:] = [
            row
            for row in rows
            if row["run"] != span["run"] or row["side"] == "lower" or row["value"] <= limit
        ]


def _bridge_layers(spans: list[Row]) -> list[Spec]:
    y: Spec = {"field": "checkpoint", "type": "nominal", "title": None, "sort": {"field": "run"}}
    y |= {"axis": {"labelLimit": 130, "ticks": False, "domain": False, "labelPadding": 8}}

    def x(field: str) -> Spec:
        scale = {"scale": {"zero": True, "nice": True}}
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
    return [
        {
            "data": {"values": spans},
            "mark": {"type": "bar", "height": 10},
            "encoding": span | vega.by_run(0.3) | between,
        },
        {"mark": {"type": "rule", "strokeWidth": 2}, "encoding": ends | vega.by_run()},
        {
            "mark": point,
            "encoding": x("value")
            | vega.by_run()
            | {"shape": {"field": "side", "type": "nominal"} | shape}
            | shown,
        },
    ]
