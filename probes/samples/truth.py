"""Measured against true information: reports of checkpoints on sprites of several M, as one table
and one picture.

I(V1; V2) = log M exactly; the ideal critic reaches log(K + 1) - E log(1 + Binomial(K, 1/M)) with K
negatives (`best_infonce`).
"""

import math
from typing import Any

from rich.table import Table

from core.errors import UserError
from probes.report.schema import Report

HEAD = ("M", "log M", "K", "measured (nats)", "95% interval", "ideal", "measured / ideal")


def collect(reports: list[Report], critic: str) -> dict[str, Any]:
    """One table: for each M every critic's sweep over K, and the one critic, the same for every M,
    that is drawn and printed.
    """
    contents = []
    for report in reports:
        found = report.get("information", {})
        if found.get("truth") is None or critic not in found["critics"]:
            raise UserError(
                f"{report['checkpoint']}: its report holds no {critic} critic on sprites; probe"
                " it with --probes information"
            )
        critics = {
            key: [_row(row) for row in values["sweep"]] for key, values in found["critics"].items()
        }
        contents.append(
            {
                "M": round(math.exp(found["truth"])),
                "log_M": found["truth"],
                "sweep": critics.pop(critic),
                "others": critics,
            }
        )
    shared = ("quantity", "estimator", "side", "split", "unit", "images")
    return {
        **{key: reports[0]["information"][key] for key in shared},
        "critic": critic,
        "contents": contents,
    }


def _row(row: dict[str, float]) -> dict[str, float]:
    measured, ideal = row["bound"], row["best_possible"]
    return {
        "K": row["K"],
        "measured": measured,
        "low": row["low"],
        "high": row["high"],
        "ideal": ideal,
        "share": measured / ideal,
    }


def least(table: dict[str, Any]) -> dict[str, float]:
    """The least share of the ideal that each critic reaches, over all M and K."""
    sweeps = [
        {table["critic"]: content["sweep"], **content["others"]} for content in table["contents"]
    ]
    return {
        critic: min(row["share"] for sweep in sweeps for row in sweep[critic])
        for critic in sweeps[0]
    }


def lines(table: dict[str, Any]) -> Table:
    """The table for the terminal: a line for each M and K."""
    caption = (
        f"{table['side'].capitalize()} on {table['quantity']}, {table['critic']} critic,"
        f" {table['split']} split, 95% intervals.\n"
    )
    caption += "The least share of the ideal over all M and K: " + ", ".join(
        f"{100 * x:.1f} % ({key})" for key, x in least(table).items()
    )
    made = Table(caption=caption, caption_justify="left", header_style="bold")
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
