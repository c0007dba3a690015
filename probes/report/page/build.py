"""The page as one HTML file that loads nothing: its parts, its texts and its scripts."""

import base64
import copy
import datetime
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from core.errors import UserError
from probes.probe import Chart
from probes.report import orders
from probes.report.comparison import said_of_views
from probes.report.figures import COLOURS
from probes.report.groups import Group
from probes.report.page import bits_back, bound_charts, content, explore, gallery, lead
from probes.report.schema import Report
from probes.report.store import write_text
from probes.report.table import SPREAD, Probes, measured
from probes.report.tabular import csv_text

PACKAGE = "probes.report.page"
KEYED = 12  # checkpoints in the key of a figure
EXPORT = "window.vegaEmbed=vegaEmbed;"
CELLS = {"number": lambda cell: "" if cell.number is None else repr(float(cell.number))}


def write(
    groups: Sequence[Group], probes: Probes, path: Path, title: str = "", explain: bool = True
) -> Path:
    """Write the page about these groups of reports. `explain`: add a map of the features and the
    scores of candidates, if the features are kept beside a checkpoint.
    """
    return write_text(path, html(groups, probes, title, explain))


def html(groups: Sequence[Group], probes: Probes, title: str = "", explain: bool = True) -> str:
    """The page as a text."""
    reports = [report for group in groups for report in group.reports]
    probes = measured(reports, probes)
    held = content.bounds(groups, probes)
    figures = sorted(content.charts(groups, probes), key=lambda figure: figure[1].square)
    bridge = bound_charts.bridge(held)
    chains = bits_back.chains(groups) if "compression" in probes else []
    maps = explore.explored(groups) if explain else explore.Explored()
    every: list[Chart] = [chart for _, chart in figures] + bridge + maps.charts
    numbered = {id(chart): number for number, chart in enumerate(every)}
    data = {
        "checkpoints": [
            {"label": group.label, **content.look(place)} for place, group in enumerate(groups)
        ],
        "charts": [{"spec": copy.deepcopy(chart.spec), "title": chart.title} for chart in every],
        "scores": maps.scores,
        "chains": chains,
        "csv": csv_text(groups, probes),
        "reports": [_public(report) for report in reports],
    }
    script, bundle = _own("page.js") + _own("bits.js"), _bundle()
    page = (
        _environment()
        .get_template("page.html")
        .render(
            title=title or "What these encoders carry",
            checkpoints=_checkpoints(groups, probes),
            count=len(reports),
            columns=content.claims(probes),
            compared=lead.compared(held)
            + lead.unequal([(group.label, content.seen(group.reports[0])) for group in groups])
            + [f"{line[0].upper()}{line[1:]}." for line in orders.said_of_orders(groups)],
            views=said_of_views(reports),
            spread=SPREAD.strip() if any(len(group.reports) > 1 for group in groups) else "",
            figures=figures,
            bridge=bridge,
            maps=maps,
            chains=chains,
            galleries=gallery.galleries(groups, probes),
            number=lambda chart: numbered[id(chart)],
            runs=_runs,
            words=lead.words(probes),
            data=_json(data),
            style=_colours() + _own("page.css"),
            script=script,
            bundle=bundle,
            policy=_policy(bundle, script),
            made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )
    return page


def _checkpoints(groups: Sequence[Group], probes: Probes) -> list[dict[str, Any]]:
    texts = [content.config_text(group.reports[0]) for group in groups]
    differ = content.differences(texts)
    return [
        {
            "place": place,
            "label": group.label,
            "method": group.reports[0]["method"].split(".")[-1],
            "data": group.data,
            "step": group.reports[0]["step"],
            "seen": content.seen(group.reports[0]),
            "cells": content.cells(group, probes),
            "sentences": content.sentences(group, probes),
            "absent": content.absent(group),
            "commands": [
                line for report in group.reports for line in content.commands(report, probes)
            ],
            "config": texts[place],
            "differs": differ[place],
            **content.look(place),
        }
        for place, group in enumerate(groups)
    ]


def _runs(chart: Chart) -> list[int]:
    """The checkpoints of a figure, for its key; none if there are too many to look up."""
    rows = chart.spec["data"]["values"]
    found = sorted({row["run"] for row in rows if "shape" in row})
    return found if len(found) <= KEYED else []


def _public(report: Report) -> dict[str, Any]:
    """A report without its signature, which has no meaning for other users."""
    return {key: value for key, value in report.items() if key != "signature"}


def _json(value: Any) -> str:
    """JSON that can stand in a script element: no text in it can end that element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def _environment() -> Environment:
    """Templates in which every text is escaped, unless it is marked as the page's own."""
    made = Environment(
        loader=PackageLoader(PACKAGE, "files"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["sorted_by"] = CELLS["number"]
    return made


def _own(name: str) -> str:
    """A file of this package."""
    return (resources.files(PACKAGE) / "files" / name).read_text(encoding="utf-8")


def _colours() -> str:
    """The colours of checkpoints, for a light and for a dark page."""
    light, dark = (
        "".join(
            f"--{kind}{number}:{code};"
            for kind, codes in (("c", of_runs), ("k", of_classes))
            for number, code in enumerate(codes)
        )
        for of_runs, of_classes in (
            (COLOURS, explore.CLASSES),
            (content.BRIGHT, explore.BRIGHT),
        )
    )
    return (
        f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark)"
        f"{{:root:not([data-theme=light]){{{dark}}}}}\n"
        f"@media screen{{:root[data-theme=dark]{{{dark}}}}}\n"
    )


def _bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    try:
        import vl_convert
    except ImportError:
        raise UserError("the page is drawn by Vega-Lite; pip install vl-convert-python") from None
    made: str = vl_convert.javascript_bundle(EXPORT)
    if "</script" in made.lower():
        raise RuntimeError("the bundle can not stand in a script element")
    return made


def _policy(*scripts: str) -> str:
    """The content security policy: these scripts run and no other, and nothing is fetched."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )
