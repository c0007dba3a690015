"""Several checkpoints in one figure, with a panel for each question."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import matplotlib.pyplot as plt

from core.errors import UserError
from probes.probe import Entry, Probe
from probes.report import figures
from probes.report.figures import COLOURS, MARKERS, STYLE
from probes.report.groups import Group, grouped, mean
from probes.report.naming import by_views, data_names
from probes.report.schema import Report
from probes.report.store import AGAIN, MALFORMED, damaged
from probes.report.table import Probes, names

WIDTHS = {"Between views: lower bound on I(V1; V2)": 1.9, "Input and code: bounds on I(X; Z)": 1.3}
EACH = 0.3  # inches of a panel for each checkpoint, if there are many


def compare(
    reports: list[Report], probes: Probes, path: Path, groups: Sequence[Group] | None = None
) -> Path:
    """Draw one panel for each panel title; all probes with that title draw into it. An entry of a
    panel is one of the given groups of reports, or a single report.
    """
    groups = grouped(reports, probes, each=True) if groups is None else groups
    panels: dict[str, list[str]] = {}
    for name, probe in probes.items():
        if probe.panel and any(name in report for report in reports):
            panels.setdefault(probe.panel, []).append(name)
    if not panels:
        raise UserError(f"no report holds numbers that can be drawn; {AGAIN}")
    try:
        return _drawn(panels, groups, probes, path)
    except MALFORMED:
        plt.close("all")
    _refuse(groups, probes, [name for members in panels.values() for name in members])


def _drawn(
    panels: dict[str, list[str]], groups: Sequence[Group], probes: Probes, path: Path
) -> Path:
    """The figure of all panels: side by side, or for many checkpoints one below the other."""
    shown = max(sum(_has(group, titled) for group in groups) for titled in panels.values())
    widths = [WIDTHS.get(title, 1.0) for title in panels]
    many = shown > figures.FEW  # then the panels stand below each other
    width = max(10.0, EACH * shown + 3) if many else 4.8 * sum(widths)
    with plt.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in letters that no font has
        figure, axes = plt.subplots(
            len(panels) if many else 1,
            1 if many else len(panels),
            squeeze=False,
            figsize=(width, 5.6 * len(panels) if many else 4.8),
            width_ratios=None if many else widths,
            layout="constrained",
        )
        for place, (title, members) in zip(axes.flat, panels.items(), strict=True):
            place.set_title(title)
            for name in members:
                probes[name].draw(place, entries(groups, name, members))
        return figures.save(figure, path)


def compare_curves(groups: Sequence[Group], probes: Probes, path: Path) -> Path:
    """Draw the curves of all rate heads; a checkpoint has the same colour as in every panel."""
    found = entries(groups, "rate_head", ["rate_head"])
    looks = [(entry.colour, entry.marker) for entry in found]
    try:
        curves = [(entry.label, entry.numbers) for entry in found]
        return figures.head_curves(curves, path, looks)
    except MALFORMED:
        plt.close("all")
    _refuse(groups, probes, ["rate_head"])


def _refuse(groups: Sequence[Group], probes: Probes, names_of_probes: Sequence[str]) -> NoReturn:
    """Raise a `UserError` that names the file whose numbers can not be drawn."""
    for name in names_of_probes:
        for report in (report for group in groups for report in group.reports):
            error = _why_not_drawn(probes[name], report[name]) if name in report else None
            if error:
                raise damaged(file_of(report), name, error) from None
    files = ", ".join(file_of(group.reports[0]) for group in groups[:3])
    raise UserError(f"{files}: their numbers can not be drawn side by side; {AGAIN}")


def _why_not_drawn(probe: Probe, numbers: dict[str, Any]) -> Exception | None:
    """The error that one checkpoint's numbers raise if they are drawn alone, or None."""
    figure, axes = plt.subplots()
    try:
        if probe.panel:
            probe.draw(axes, [Entry("", COLOURS[0], MARKERS[0], numbers, (numbers,))])
        else:
            figures.curve(axes, [numbers["nothing"], *numbers["points"]], COLOURS[0], "")
        figure.savefig(io.BytesIO(), dpi=110)
    except MALFORMED as error:
        return error
    finally:
        plt.close(figure)
    return None


def entries(groups: Sequence[Group], probe: str, panel: Sequence[str]) -> list[Entry]:
    """The groups that have numbers of a probe. A group has the same colour and marker in every
    panel. Its place is counted among the groups that have numbers of any probe of this `panel`.
    """
    found = []
    present = [group for group in groups if _has(group, panel)]
    places = {id(group): place for place, group in enumerate(present)}
    for number, group in enumerate(groups):
        if runs := group.runs(probe):
            look = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            label, data = figures.drawable(group.label), figures.drawable(group.data)
            found.append(Entry(label, *look, mean(runs), runs, places[id(group)], data))
    return found


def _has(group: Group, panel: Sequence[str]) -> bool:
    return any(group.runs(probe) for probe in panel)


def file_of(report: Report) -> str:
    """The file that a report was read from, if it is known."""
    return str(report.get("file", report["checkpoint"]))


def require_one_data_set(
    reports: Sequence[Report], remedy: str = "compare runs on one data set, or add --mixed"
) -> None:
    """Raise `UserError` for reports whose test data have different fingerprints, because numbers on
    different data can not share an axis.
    """
    runs: dict[str, list[str]] = {}
    for data, name in zip(data_names(reports), names(reports), strict=True):
        runs.setdefault(data, []).append(name)
    if len(runs) > 1:
        said = " and ".join(
            f"{data} ({', '.join(found[:3])}{', …' if len(found) > 3 else ''})"
            for data, found in list(runs.items())[:3]
        )
        raise UserError(
            f"the runs are on different data, so their numbers can not share an axis: {said};"
            f" {remedy}"
        )


def said_of_views(reports: Sequence[Report]) -> str:
    """A warning for runs whose views were made in different ways, because then I(V1; V2) is a
    different quantity for each; empty for other runs.
    """
    found = list(by_views(reports).items())
    if len(found) < 2:
        return ""
    said = " and ".join(
        f"{views} ({', '.join(runs[:3])}{', …' if len(runs) > 3 else ''})"
        for views, runs in found[:3]
    )
    return (
        f"the views of an image were made in different ways: {said}; I(V1; V2) is a different"
        " quantity for each, so compare it only among runs with the same kind of views"
    )
