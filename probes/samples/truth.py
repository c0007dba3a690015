"""Measured and true information: reports of checkpoints on sprites with several M, as a table.

I(V1; V2) = log M exactly. With K negatives, the ideal critic reaches
log(K + 1) - E log(1 + Binomial(K, 1/M)) (`best_infonce`).
"""

import math
from typing import Any

from core.errors import UserError
from probes.report.schema import Report
from probes.report.table import Table, grid

HEAD = ("M", "log M", "K", "measured (nats)", "95% interval", "ideal", "measured / ideal")


def collect(reports: list[Report], critic: str) -> dict[str, Any]:
    """For each M, the sweep over K of every critic. The same `critic` is drawn and printed for all
    M.
    """
    contents = []
    for report in reports:
        found = report.get("information", {})
        if found.get("truth") is None or critic not in found["critics"]:
            raise UserError(
                f"{report['checkpoint']}: its report holds no {critic} critic on sprites; probe"
                " it with --probes information"
            )
        sweeps = {key: list(map(_row, c["sweep"])) for key, c in found["critics"].items()}
        m = {"M": round(math.exp(found["truth"])), "log_M": found["truth"]}
        contents.append(m | {"sweep": sweeps.pop(critic), "others": sweeps})
    keys = ("quantity", "estimator", "side", "split", "unit", "images")
    shared = {key: reports[0]["information"][key] for key in keys}
    return shared | {"critic": critic, "contents": contents}


def _row(row: dict[str, float]) -> dict[str, float]:
    measured, ideal = row["bound"], row["best_possible"]
    found = {"K": row["K"], "measured": measured, "low": row["low"], "high": row["high"]}
    return found | {"ideal": ideal, "share": measured / ideal}


def least(table: dict[str, Any]) -> dict[str, float]:
    """The smallest measured / ideal of each critic, over all M and K."""
    name, contents = table["critic"], table["contents"]
    sweeps = [{name: content["sweep"], **content["others"]} for content in contents]
    return {key: min(row["share"] for sweep in sweeps for row in sweep[key]) for key in sweeps[0]}


def lines(table: dict[str, Any]) -> Table:
    """The table for the terminal: a line for each M and K."""
    shares = ", ".join(f"{100 * x:.1f} % ({key})" for key, x in least(table).items())
    caption = (
        f"{table['side'].capitalize()} on {table['quantity']}, {table['critic']} critic,"
        f" {table['split']} split, 95% intervals.\n"
        f"Smallest measured / ideal over all M and K: {shares}"
    )
    rows: list[list[str] | None] = []
    for content in table["contents"]:
        for row in content["sweep"]:
            cells = [f"{content['M']:,}", f"{content['log_M']:.3f}", f"{row['K']:,}"]
            cells += [f"{row['measured']:.3f}", f"[{row['low']:.3f}, {row['high']:.3f}]"]
            rows.append([*cells, f"{row['ideal']:.3f}", f"{100 * row['share']:.1f} %"])
        rows.append(None)
    return grid(HEAD, rows, (), caption=caption)
