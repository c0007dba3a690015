"""Figures and sentences of confusions between classes."""

from typing import Any

from core.errors import legible
from probes.probe import Chart, Entry, Numbers
from probes.report.page import vega
from probes.report.page.vega import INK, Row, Spec

MOST = 6  # checkpoints
CELLS = 12_000  # the most cells that are not 0, in all tables together
WRITTEN = 12  # classes of a table with a number in each cell
LEAST = 0.005  # the smallest share that is written


def said_of_labels(numbers: Numbers) -> list[str]:
    """The share of each label that is found, beside that of a random guess."""
    shares = numbers.get("confusion", {})
    found = [
        f"{legible(str(factor), 40)} {100 * numbers[f'top1/{factor}']:.1f} % (random guess"
        f" {100 / len(rows):.1f} %)"
        for factor, rows in shares.items()
        if f"top1/{factor}" in numbers and len(rows) > 1
    ]
    if len(found) == 1 == len(shares):
        classes = len(next(iter(shares.values())))
        return [f"A random guess finds {100 / classes:.1f} % of the labels."]
    return [f"Label by label: {', '.join(found)}."] if found else []


def said_of_confusion(shares: dict[str, Any]) -> list[str]:
    """The most frequent confusion of all factors, in words."""
    found = [
        (share, str(factor), true, read)
        for factor, rows in shares.items()
        for true, row in enumerate(rows)
        for read, share in enumerate(row)
        if true != read
    ]
    if not found or max(found)[0] < LEAST:
        return []
    share, factor, true, read = max(found)
    return [
        f"The most frequent confusion: {100 * share:.0f} % of the images with {factor} {true} are"
        f" read as {read}."
    ]


def confusions(entries: list[Entry]) -> list[Chart]:
    """A table of shares for each checkpoint and factor; the reader of the page chooses a table."""
    rows: list[Row] = []
    wrong: dict[str, float] = {}  # for each table, the shares of errors, summed over classes
    for entry in entries[:MOST]:
        for factor, shares in entry.numbers.get("confusion", {}).items():
            made = _cells(shares)
            if made and len(rows) + len(made) <= CELLS:
                name = legible(f"{entry.label}: {factor}", 80)
                wrong[name] = sum(row["share"] for row in made if row["true"] != row["read"])
                rows += [row | {"shown": name} for row in made]
    if not rows:
        return []
    names = tuple(sorted(wrong, key=lambda name: -wrong[name]))
    return [
        Chart(
            "Confusion between classes",
            "Each cell is the share of the test images of the row's class that the linear"
            " classifier reads as the column's class. A perfect classifier has 100 % on the"
            " diagonal. Classes are numbered from 0, in the order of the data.",
            _spec(rows, names[0]),
            names,
            "checkpoint and label",
            square=True,
        )
    ]


def _cells(shares: list[list[float]]) -> list[Row]:
    written = len(shares) <= WRITTEN
    return [
        {"true": true, "read": read, "share": float(share)}
        | {"text": f"{100 * share:.0f} %" if written and share >= LEAST else ""}
        for true, row in enumerate(shares)
        for read, share in enumerate(row)
        if share > 0
    ]


def _spec(rows: list[Row], first: str) -> Spec:
    def axis(field: str, title: str) -> Spec:
        look = {"labelAngle": 0, "labelOverlap": True, "domain": False, "ticks": False}
        return {"field": field, "type": "ordinal", "title": title, "axis": look}

    places = {"y": axis("true", "class of the image"), "x": axis("read", "read as")}
    opacity: Spec = {"field": "share", "type": "quantitative", "legend": None}
    opacity |= {"scale": {"domain": [0, 1], "range": [0.06, 0.75]}}
    shown = vega.tooltip(("true", ""), ("read", ""), ("share", ".1%"))
    chosen: Spec = {"transform": [{"filter": "datum.shown === choice"}]}
    return vega.layered(
        rows,
        [
            chosen
            | {"mark": {"type": "rect", "color": "var(--accent)", "cornerRadius": 2}}
            | {"encoding": places | {"opacity": opacity} | shown},
            chosen
            | {"mark": {"type": "text", "color": INK, "fontSize": 11}}
            | {"encoding": places | {"text": {"field": "text"}}},
        ],
        [{"name": "choice", "value": first}],
    )
