"""Reports as a table, as plain sentences, and as numbers for a log."""

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

from rich.table import Table

from core.errors import legible
from core.information.units import bits
from probes.probe import Probe, Value
from probes.report.groups import Group, counted, grouped
from probes.report.naming import data_names
from probes.report.naming import names as names
from probes.report.schema import Report

Probes = dict[str, Probe]
LONGEST = 200  # characters of a cell
SPREAD = " For several seeds, ± is the standard deviation over seeds, not a 95% interval."
HALF = " For a single run, ± is half its 95% interval."  # true for this table alone


def grid(
    head: Sequence[str], rows: Iterable[Sequence[str] | None], left: Sequence[str], **look: Any
) -> Table:
    """A table for the terminal. The columns in `left` are aligned left, all others right; None
    instead of a row draws a line. Long cells are folded, not cut.
    """
    made = Table(title_justify="left", caption_justify="left", header_style="bold", **look)
    for heading in head:
        made.add_column(heading, overflow="fold", justify="left" if heading in left else "right")
    for row in rows:
        made.add_section() if row is None else made.add_row(*row)
    return made


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    lines = [heads, *rows]
    cells = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return [cells[0], "|" + "---|" * len(heads), *cells[1:]]


def measured(reports: Sequence[Report], probes: Probes) -> Probes:
    """The probes that have numbers in at least one report."""
    return {name: probe for name, probe in probes.items() if any(name in r for r in reports)}


def head(probes: Probes) -> list[str]:
    """The headings: three for the checkpoint, then the columns of every probe."""
    return ["checkpoint", "method", "data", *(heading for _, heading in headings(probes))]


def headings(probes: Probes) -> list[tuple[str, str]]:
    """(key of a probe, heading) of each column of the probes. Each heading is different: if an
    earlier column has the same heading, the probe's key follows it.
    """
    found = [("", fixed) for fixed in ("checkpoint", "seeds", "method", "data")]
    for key, probe in probes.items():
        for heading in probe.columns:
            taken = {other for _, other in found}
            found.append((key, f"{heading} ({key})" if heading in taken else heading))
    return [(key, heading) for key, heading in found if key]


def row(report: Report, name: str, probes: Probes, data: str = "") -> list[str]:
    """The line of one checkpoint; "–" for a probe without numbers."""
    return _cells(Group(name, data or report["data"], (report,)), probes)


def _cells(group: Group, probes: Probes) -> list[str]:
    cells = [group.label, group.reports[0]["method"].split(".")[-1], group.data]
    for key, probe in probes.items():
        runs = group.runs(key)
        if not runs:
            cells += ["–"] * len(probe.columns)
            continue
        part = share_of(group, len(runs))
        made = probe.cells(runs[0])
        if len(runs) > 1:
            columns = zip(*(probe.values(run) for run in runs), strict=True)
            made = [spread(column) for column in columns]
        cells += [f"{cell}{part}" for cell in made]
    return [legible(cell, LONGEST) for cell in cells]


def share_of(group: Group, runs: int) -> str:
    """The text " (2 of 3)" if only some runs of a group have a number, else ""."""
    total = len(group.reports)
    return f" ({runs} of {total})" if 0 < runs < total else ""


def spread(column: Sequence[Value | str]) -> str:
    """The cell of several runs: mean ± standard deviation (for an interval, of both bounds);
    different texts are counted.
    """
    values = [cell for cell in column if isinstance(cell, Value)]
    if len(values) < len(column):
        return counted([cell if isinstance(cell, str) else shown(cell) for cell in column])
    digits = values[0].digits
    sides = ("low", "high") if any(value.value is None for value in values) else ("value",)
    found = ([getattr(value, side) for value in values] for side in sides)
    return " … ".join(f"{fmean(x):,.{digits}f} ± {stdev(x):,.{digits}f}" for x in found)


def shown(value: Value) -> str:
    """The number of one run as text, with its interval if it has one."""
    ends = [f"{end:,.{value.digits}f}" for end in (value.low, value.high) if end is not None]
    if value.value is None:
        return " … ".join(ends)
    return f"{value.value:,.{value.digits}f}" + (f" [{', '.join(ends)}]" if ends else "")


def table(
    reports: Sequence[Report], probes: Probes, groups: Sequence[Group] | None = None
) -> Table:
    """A line for each checkpoint, or for each of the given groups. I(V1; V2) and I(X; Z) are
    different quantities and have different columns.
    """
    probes = measured(reports, probes)
    groups = grouped(reports, probes, each=True) if groups is None else groups
    caption = (
        "Nats, test split, 95% intervals. InfoNCE bounds I(V1;V2) from below; R bounds I(X;Z) from"
        " above. These are different quantities."
    )
    if any(len(group.reports) > 1 for group in groups):
        caption += SPREAD + HALF
    rows, headings = [_cells(group, probes) for group in groups], head(probes)
    return grid(headings, rows, headings[:3], caption=caption + _truths(reports))


def _truths(reports: Sequence[Report]) -> str:
    """The true I(V1; V2) if it is known; one value for each data set if the values differ."""
    found = {
        (report["information"]["truth"], name)
        for report, name in zip(reports, data_names(reports), strict=True)
        if "information" in report
    }
    one = len({truth for truth, _ in found}) == 1
    said = {
        "" if one else f" of {name}": f"{truth:.3f} nats = {bits(truth):.2f} bits"
        for truth, name in sorted(found, key=lambda pair: pair[1])
        if truth is not None
    }
    return "".join(f" The truth{of} is I(V1;V2) = {truth}." for of, truth in said.items())


def numbers(report: Report, probes: Probes) -> dict[str, float]:
    """The headline numbers by name, for a log. If an earlier probe has used a name, the key of the
    probe is put before the name.
    """
    found: dict[str, float] = {}
    for key, probe in probes.items():
        for name, value in probe.headline(report[key]).items() if key in report else ():
            found[f"{key}/{name}" if name in found else name] = value
    return found


def sentences(report: Report, probes: Probes) -> list[str]:
    """One checkpoint in sentences, for the terminal."""
    (name,) = names([report])
    lines = [f"{name}: {report['method']} at step {report['step']}, data {report['data']}"]
    for key, probe in probes.items():
        lines += [f"  {line}" for line in probe.sentences(report[key])] if key in report else []
    absent: dict[str, list[str]] = {}  # the reason, and the probes that have it
    for key, why in report["absent"].items():
        absent.setdefault(why, []).append(key)
    return lines + [f"  no {', '.join(keys)}: {why}" for why, keys in absent.items()]
