"""Measured and true information: reports of checkpoints on data of known information, as a table.

For sprites with M contents, I(V1; V2) = log M. With K negatives, the ideal critic reaches
log(K + 1) - E log(1 + Binomial(K, 1/M)) (`best_infonce`). For captions that mention each factor
with a known probability, `core.data.caption_truth` computes both.
"""

from typing import Any

from core.errors import UserError
from probes.report.schema import Report
from probes.report.table import Table, grid

HEAD = ("truth (nats)", "K", "measured (nats)", "95% interval", "ideal", "measured / ideal")


def collect(
    reports: dict[str, Report], critic: str, setting: str, probe: str = "information"
) -> dict[str, Any]:
    """The sweep over K of every critic of each report. `reports`: value of `setting` (such as M) ->
    report. The sweeps of `critic` are drawn and printed.
    """
    contents = []
    for value, report in reports.items():
        found = report.get(probe, {})
        if found.get("truth") is None or critic not in found["critics"]:
            raise UserError(
                f"{report['checkpoint']}: its report holds no {critic} critic on data of known"
                f" information; probe it with --probes {probe}"
            )
        sweeps = {key: list(map(_row, c["sweep"])) for key, c in found["critics"].items()}
        content = {"value": value, "truth": found["truth"], "sweep": sweeps.pop(critic)}
        contents.append(content | {"others": sweeps})
    keys = ("quantity", "estimator", "side", "split", "unit", "images")
    first = next(iter(reports.values()))[probe]
    shared = {key: first[key] for key in keys}
    return shared | {"setting": setting, "critic": critic, "contents": contents}


def _row(row: dict[str, float]) -> dict[str, float]:
    measured, ideal = row["bound"], row["best_possible"]
    found = {"K": row["K"], "measured": measured, "low": row["low"], "high": row["high"]}
    return found | {"ideal": ideal, "share": measured / ideal}


def least(table: dict[str, Any]) -> dict[str, float]:
    """The smallest measured / ideal of each critic, over all contents and K."""
    name, contents = table["critic"], table["contents"]
    sweeps = [{name: content["sweep"], **content["others"]} for content in contents]
    return {key: min(row["share"] for sweep in sweeps for row in sweep[key]) for key in sweeps[0]}


def at_largest(table: dict[str, Any]) -> list[str]:
    """For each content, a sentence on the bound of the drawn critic at the largest K."""
    said = []
    for content in table["contents"]:
        row = content["sweep"][-1]
        share, half = 100 * row["share"], row["high"] - row["measured"]
        fits = "" if row["low"] <= row["ideal"] else ", and ABOVE it by more than the interval"
        said.append(
            f"{table['setting']} = {content['value']}: {row['measured']:.3f} ± {half:.3f} of"
            f" {row['ideal']:.3f} nats at K = {row['K']:,}, {share:.1f} % of the ideal{fits}"
        )
    return said


def lines(table: dict[str, Any]) -> Table:
    """The table for the terminal: a line for each content and K."""
    shares = ", ".join(f"{100 * x:.1f} % ({key})" for key, x in least(table).items())
    caption = (
        f"{table['side'].capitalize()} on {table['quantity']}, {table['critic']} critic,"
        f" {table['split']} split, 95% intervals.\n"
        f"Smallest measured / ideal over all {table['setting']} and K: {shares}"
    )
    rows: list[list[str] | None] = []
    for content in table["contents"]:
        for row in content["sweep"]:
            cells = [content["value"], f"{content['truth']:.3f}", f"{row['K']:,}"]
            cells += [f"{row['measured']:.3f}", f"[{row['low']:.3f}, {row['high']:.3f}]"]
            rows.append([*cells, f"{row['ideal']:.3f}", f"{100 * row['share']:.1f} %"])
        rows.append(None)
    return grid((table["setting"], *HEAD), rows, (), caption=caption)
