"""The table of checkpoints as a file: CSV or LaTeX."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from probes.probe import Value
from probes.report.groups import Group, counted
from probes.report.store import write_text
from probes.report.table import SPREAD, Probes, head, headings, measured, share_of, shown, spread

SIDES = ("", " low", " high", " sd over seeds", " seeds")
SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "…": r"\ldots{}",
    "·": r"$\cdot$",
    "–": "--",
    "β": r"$\beta$",
    "−": "$-$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def columns(group: Group, probes: Probes) -> list[tuple[str, tuple[Value | str, ...]]]:
    """Each column of the probes, with the value of each run of a group."""
    found = []
    named = iter(headings(probes))
    for key, probe in probes.items():
        runs = [probe.values(numbers) for numbers in group.runs(key)]
        found += [
            (next(named)[1], tuple(run[number] for run in runs))
            for number in range(len(probe.columns))
        ]
    return found


def write_csv(groups: Sequence[Group], probes: Probes, path: Path) -> Path:
    """Write `csv_text`."""
    return write_text(path, csv_text(groups, probes))


def csv_text(groups: Sequence[Group], probes: Probes) -> str:
    """Plain numbers, a line for each group. For each column of the table: the value, the ends of
    its 95% interval (or two bounds), and the standard deviation over seeds. If only some seeds have
    the value, also how many.
    """
    probes = measured([report for group in groups for report in group.reports], probes)
    lines = []
    for group in groups:
        line: dict[str, object] = {
            "checkpoint": _harmless(group.name),
            "seeds": len(group.reports),
            "method": _harmless(group.reports[0]["method"]),
            "data": _harmless(group.data),
        }
        for heading, cells in columns(group, probes):
            line |= {f"{heading}{side}": part for side, part in _plain(cells).items()}
            if share_of(group, len(cells)):
                line[f"{heading} seeds"] = len(cells)
        lines.append(line)
    heads = list(lines[0])[:4] + [
        f"{column}{side}"
        for _, column in headings(probes)
        for side in SIDES
        if any(f"{column}{side}" in line for line in lines)
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, heads, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _plain(cells: Sequence[Value | str]) -> Mapping[str, object]:
    """One column of the CSV: side -> a number or a text."""
    values = [cell for cell in cells if isinstance(cell, Value)]
    if not cells or len(values) < len(cells):
        texts = [cell if isinstance(cell, str) else shown(cell) for cell in cells]
        return {"": _harmless(counted(texts))} if texts else {}
    if any(value.value is None for value in values):  # two bounds
        return {
            f" {end}": fmean(getattr(value, end) for value in values) for end in ("low", "high")
        }
    middle = [value.value for value in values if value.value is not None]
    if len(middle) > 1:
        return {"": fmean(middle), " sd over seeds": stdev(middle)}
    interval = {" low": values[0].low, " high": values[0].high}
    return {"": middle[0]} | {side: end for side, end in interval.items() if end is not None}


def _harmless(text: str) -> str:
    """A text changed so that no spreadsheet reads it as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text


def write_latex(groups: Sequence[Group], probes: Probes, path: Path) -> Path:
    """A LaTeX tabular with booktabs' rules; numbers of a single run have their 95% interval."""
    probes = measured([report for group in groups for report in group.reports], probes)
    heads, lines = head(probes), []
    for group in groups:
        texts = [group.label, group.reports[0]["method"].split(".")[-1], group.data]
        found = (cells for _, cells in columns(group, probes))
        lines.append(texts + [f"{_text(cells)}{share_of(group, len(cells))}" for cells in found])
    several = any(len(group.reports) > 1 for group in groups)
    note = f"% [ , ]: 95% interval of one run, test split.{SPREAD if several else ''}"
    special = str.maketrans(SPECIAL)
    rows = [" & ".join(x.translate(special) for x in line) + r" \\" for line in (heads, *lines)]
    body = [rf"\begin{{tabular}}{{lll{'r' * (len(heads) - 3)}}}", r"\toprule", rows[0], r"\midrule"]
    end = [r"\bottomrule", r"\end{tabular}", ""]
    return write_text(path, "\n".join([note, *body, *rows[1:], *end]))


def _text(cells: Sequence[Value | str]) -> str:
    if not cells:
        return "–"
    if len(cells) > 1:
        return spread(cells)
    return cells[0] if isinstance(cells[0], str) else shown(cells[0])
