"""Measured against true information: reports of checkpoints on sprites of several M, as one table and one picture.

I(V1; V2) = log M exactly; the ideal critic reaches log(K + 1) - E log(1 + Binomial(K, 1/M)) with K negatives (`best_infonce`).
"""

from core.errors import UserError

import math
from typing import Any

from rich.table import Table

from probes.report import Report

HEAD = ("M", "log M", "K", "measured (nats)", "95% interval", "ideal", "measured / ideal")


def collect(reports: list[Report], critic: str) -> dict[str, Any]:
    """One table: for each M the sweep over K of one critic, the same for every M."""
    contents = []
    for report in reports:
        found = report.get("information", {})
        if found.get("truth") is None or critic not in found["critics"]:
            raise UserError(f"{report['checkpoint']}: its report holds no '{critic}' critic on sprites; probe it with --probes information")
        sweep = [
            {
                "K": row["K"],
                "measured": row["bound"],
                "low": row["low"],
                "high": row["high"],
                "ideal": row["best_possible"],
                "share": row["bound"] / row["best_possible"],
            }
            for row in found["critics"][critic]["sweep"]
        ]
        contents.append({"M": round(math.exp(found["truth"])), "log_M": found["truth"], "sweep": sweep})
    shared = ("quantity", "estimator", "side", "split", "unit", "images")
    return {**{key: reports[0]["information"][key] for key in shared}, "critic": critic, "contents": contents}


def lines(table: dict[str, Any]) -> Table:
    """The table for the terminal: a line for each M and K."""
    least = min(row["share"] for content in table["contents"] for row in content["sweep"])
    caption = f"{table['side'].capitalize()} on {table['quantity']}, {table['critic']} critic, {table['split']} split, 95% intervals."
    made = Table(caption=f"{caption} The least share of the ideal is {100 * least:.1f} %.", caption_justify="left", header_style="bold")
    for heading in HEAD:
        made.add_column(heading, justify="right")
    for content in table["contents"]:
        for row in content["sweep"]:
            made.add_row(
                f"{content['M']:,}",
                f"{content['log_M']:.3f}",
                f"{row['K']:,}",
                f"{row['measured']:.3f}",
                f"[{row['low']:.3f}, {row['high']:.3f}]",
                f"{row['ideal']:.3f}",
                f"{100 * row['share']:.1f} %",
            )
        made.add_section()
    return made
