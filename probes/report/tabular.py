"""The table of checkpoints as a file: CSV for programs, LaTeX for papers."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from core.files import write_atomically
from probes.probe import Value
from probes.report.groups import Group, counted
from probes.report.table import SPREAD, Probes, measured, shown, spread

SIDES = ("", " low", " high", " sd over seeds")
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
    """Each column of the probes with what each run of a group has there."""
    found = []
    for key, probe in probes.items():
        runs = [probe.values(numbers) for numbers in group.runs(key)]
        found += [
            (heading, tuple(run[number] for run in runs))
            for number, heading in enumerate(probe.columns)
        ]
    return found


def write_csv(groups: Sequence[Group], probes: Probes, path: Path) -> Path:
    """Plain numbers: a line for each group, and for each column of the table its value, the ends of
    its 95% interval (of a bracket its two bounds) and the standard deviation over seeds.
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
        lines.append(line)
    heads = list(lines[0])[:4] + [
        f"{column}{side}"
        for probe in probes.values()
        for column in probe.columns
        for side in SIDES
        if any(f"{column}{side}" in line for line in lines)
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, heads, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return _write(path, text.getvalue())


def _plain(cells: Sequence[Value | str]) -> Mapping[str, object]:
    """What the CSV holds of one column: sides -> a number or a text."""
    values = [cell for cell in cells if isinstance(cell, Value)]
    if not cells or len(values) < len(cells):
        texts = [cell if isinstance(cell, str) else shown(cell) for cell in cells]
        return {"": _harmless(counted(texts))} if texts else {}
    if any(value.value is None for value in values):  # two bounds
        ends = (
            ("low", [value.low for value in values]),
            ("high", [value.high for value in values]),
        )
        return {f" {side}": fmean(x for x in end if x is not None) for side, end in ends}
    middle = [value.value for value in values if value.value is not None]
    if len(middle) > 1:
        return {"": fmean(middle), " sd over seeds": stdev(middle)}
    interval = {" low": values[0].low, " high": values[0].high}
    return {"": middle[0]} | {side: end for side, end in interval.items() if end is not None}


def _harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text


def write_latex(groups: Sequence[Group], probes: Probes, path: Path) -> Path:
    """A tabular with booktabs' rules; of a single run each number has its 95% interval."""
    probes = measured([report for group in groups for report in group.reports], probes)
    heads = ["checkpoint", "method", "data", *(c for p in probes.values() for c in p.columns)]
    lines = []
    for group in groups:
        texts = [group.label, group.reports[0]["method"].split(".")[-1], group.data]
        lines.append(texts + [_text(cells) for _, cells in columns(group, probes)])
    several = any(len(group.reports) > 1 for group in groups)
    note = f"% [ , ]: 95% interval of one run, test split.{SPREAD if several else ''}"
    rows = [" & ".join(map(_latex, line)) + r" \\" for line in (heads, *lines)]
    body = [rf"\begin{{tabular}}{{lll{'r' * (len(heads) - 3)}}}", r"\toprule", rows[0], r"\midrule"]
    return _write(
        path, "\n".join([note, *body, *rows[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"
    )


def _text(cells: Sequence[Value | str]) -> str:
    if not cells:
        return "–"
    if len(cells) > 1:
        return spread(cells)
    return cells[0] if isinstance(cells[0], str) else shown(cells[0])


def _latex(text: str) -> str:
    return "".join(SPECIAL.get(c, c) for c in text)


def _write(path: Path, text: str) -> Path:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path
