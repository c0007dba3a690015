"""Reports as one table, as plain sentences and as the numbers of a log."""

import math
from pathlib import Path

from rich.table import Table

from probes.probe import Probe
from probes.report.schema import Report

Probes = dict[str, Probe]


def names(reports: list[Report]) -> list[str]:
    """What each checkpoint is called: the end of its path, as short as tells them all apart."""
    paths = [Path(report["checkpoint"]) for report in reports]
    parts = [path.parent.parts + (() if path.stem == "last" else (path.stem,)) for path in paths]
    for length in range(1, max(map(len, parts), default=0) + 1):
        short = ["/".join(part[-length:]) for part in parts]
        if len(set(short)) == len(set(parts)):
            break
    return short


def measured(reports: list[Report], probes: Probes) -> Probes:
    """The probes of which any of the checkpoints has numbers."""
    return {name: probe for name, probe in probes.items() if any(name in r for r in reports)}


def head(probes: Probes) -> list[str]:
    """The headings: what a checkpoint is, then the columns of every probe."""
    return ["checkpoint", "method", "data", *(c for p in probes.values() for c in p.columns)]


def row(report: Report, name: str, probes: Probes) -> list[str]:
    """One checkpoint as a line of the table; "–" where a probe has no numbers."""
    cells = [name, report["method"].split(".")[-1], report["data"]]
    for key, probe in probes.items():
        cells += probe.cells(report[key]) if key in report else ["–"] * len(probe.columns)
    return cells


def table(reports: list[Report], probes: Probes) -> Table:
    """All checkpoints in one table. I(V1; V2) and I(X; Z) are different quantities and stand in
    different columns.
    """
    probes = measured(reports, probes)
    truths = {report["information"]["truth"] for report in reports if "information" in report}
    caption = (
        "Nats, test split, 95% intervals. InfoNCE bounds I(V1;V2) from below; R bounds I(X;Z) from"
        " above: different quantities."
    )
    if len(truths) == 1 and (truth := truths.pop()) is not None:
        caption += f" The truth is I(V1;V2) = {truth:.3f} nats = {truth / math.log(2):.2f} bits."
    made = Table(caption=caption, caption_justify="left", header_style="bold")
    for number, heading in enumerate(head(probes)):
        made.add_column(heading, overflow="fold", justify="left" if number < 3 else "right")
    for report, name in zip(reports, names(reports), strict=True):
        made.add_row(*row(report, name, probes))
    return made


def numbers(report: Report, probes: Probes) -> dict[str, float]:
    """The headline numbers by name, for a log."""
    return {
        name: value
        for key, probe in probes.items()
        if key in report
        for name, value in probe.headline(report[key]).items()
    }


def sentences(report: Report, probes: Probes) -> list[str]:
    """One checkpoint in plain sentences, for the terminal."""
    (name,) = names([report])
    lines = [f"{name}: {report['method']} at step {report['step']}, data {report['data']}"]
    for key, probe in probes.items():
        lines += [f"  {line}" for line in probe.sentences(report[key])] if key in report else []
    return lines + [f"  no {key}: {why}" for key, why in report["absent"].items()]
