"""Several checkpoints in one figure, a panel a question."""

from pathlib import Path

import matplotlib.pyplot as plt

from core.errors import UserError
from probes.probe import Entry
from probes.report.figures import COLOURS, MARKERS, STYLE, save
from probes.report.schema import Report
from probes.report.store import AGAIN, MALFORMED
from probes.report.table import Probes, names

WIDTHS = {"Between views: lower bound on I(V1; V2)": 1.6}


def compare(reports: list[Report], probes: Probes, path: Path) -> Path:
    """A panel for each title that probes give, drawn by all probes of that title."""
    panels: dict[str, list[str]] = {}
    for name, probe in probes.items():
        if probe.panel and any(name in report for report in reports):
            panels.setdefault(probe.panel, []).append(name)
    widths = [WIDTHS.get(title, 1.0) for title in panels]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1,
            len(panels),
            squeeze=False,
            figsize=(4.2 * sum(widths), 4.8),
            width_ratios=widths,
            layout="constrained",
        )
        for place, (title, members) in zip(axes[0], panels.items(), strict=True):
            place.set_title(title)
            for name in members:
                try:
                    probes[name].draw(place, entries(reports, name))
                except MALFORMED:
                    raise UserError(
                        f"a report holds other numbers under '{name}' than that probe measures;"
                        f" {AGAIN}"
                    ) from None
        return save(figure, path)


def entries(reports: list[Report], probe: str) -> list[Entry]:
    """The checkpoints that have the numbers of a probe, each with the colour and marker that it has
    in every panel.
    """
    return [
        Entry(label, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], report[probe])
        for i, (report, label) in enumerate(zip(reports, names(reports), strict=True))
        if probe in report
    ]
