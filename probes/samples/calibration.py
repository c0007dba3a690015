"""Estimates held against the truth: one row a source, one table, one verdict on the estimators
themselves.
"""

import math
from typing import Any

import numpy as np

from probes.samples.benchmark_sources import Known
from probes.samples.estimate import DEFAULT, estimate

Row = dict[str, Any]
# standard errors above the sample's own information that a lower bound may stand, by chance
TRUSTED = 3.0


def measure(name: str, source: Known, seed: int = 0) -> Row:
    """The default estimate of one source, beside its truth and what the sample itself holds."""
    found = estimate(source.x, source.y, DEFAULT, seed, name)
    own = source.pointwise
    return {
        "source": name,
        "dimensions": found["dimensions"],
        "truth": source.information,
        "own": float(own.mean()),
        "own_error": float(own.std() / math.sqrt(len(own))),
        "estimators": found["estimators"],
        "conclusion": found["conclusion"],
    }


def excess(row: Row, estimator: str) -> float:
    """By how many standard errors an estimate stands above what the sample itself holds, which
    differs from the truth by chance alone.
    """
    entry = row["estimators"][estimator]
    # an error of 0 is that of a critic that says 0 to every pair
    return float((entry["value"] - row["own"]) / max(entry["error"], 1e-9))


def collect(rows: list[Row], pairs: int, seed: int, sources: str) -> dict[str, Any]:
    """All rows, and the figures over them: mean absolute error under 4 nats, and the largest excess
    of a lower bound.
    """
    close = [row for row in rows if row["truth"] < 4]
    lower = [
        (excess(row, key), key, row["source"])
        for row in rows
        for key, e in row["estimators"].items()
        if e["side"] == "lower bound"
    ]
    names = [key for key in DEFAULT if any(key in row["estimators"] for row in close)]
    found: dict[str, Any] = {
        "sources": sources,
        "pairs": pairs,
        "seed": seed,
        "unit": "nats",
        "rows": rows,
    }
    found["mean_absolute_error"] = {
        key: float(
            np.mean(
                [
                    abs(row["estimators"][key]["value"] - row["truth"])
                    for row in close
                    if key in row["estimators"]
                ]
            )
        )
        for key in names
    }
    found["largest_excess"] = dict(
        zip(("standard_errors", "estimator", "source"), max(lower), strict=True)
    )
    found["seconds"] = {
        "median": float(np.median([row["seconds"] for row in rows])),
        "most": max(row["seconds"] for row in rows),
    }
    if all("peer" in row for row in rows):
        found["mean_absolute_error"]["benchmark-mi infonce"] = float(
            np.mean([abs(row["peer"] - row["truth"]) for row in close])
        )
        seconds = [row["peer_seconds"] for row in rows]
        found["peer_seconds"] = {"median": float(np.median(seconds)), "most": max(seconds)}
        found["peer_time_over_ours"] = float(
            np.median([row["peer_seconds"] / row["seconds"] for row in rows])
        )
    return found


def line(row: Row) -> str:
    """What is printed when a source is done."""
    parts = [
        f"{key} {entry['value']:z.3f} ± {1.96 * entry['error']:.3f}"
        for key, entry in row["estimators"].items()
    ]
    peer = (
        f" · benchmark-mi {row['peer']:z.3f} in {row['peer_seconds']:.0f} s"
        if "peer" in row
        else ""
    )
    verdict = row["estimators"]["infonce"]["verdict"]
    found = f"{row['source']}: truth {row['truth']:.3f} · {' · '.join(parts)} · {verdict}"
    return f"{found}, {row['seconds']:.0f} s{peer}"


def summary(found: dict[str, Any]) -> str:
    """The figures over all sources, in words."""
    worst = found["largest_excess"]
    lines = [
        f"{len(found['rows'])} sources, {found['pairs']:,} pairs each, seed {found['seed']}.",
        "Mean absolute error where I < 4 nats: "
        + ", ".join(f"{key} {value:.3f}" for key, value in found["mean_absolute_error"].items())
        + ".",
        f"No lower bound stands more than {TRUSTED:g} standard errors above what the sample"
        " itself holds"
        if worst["standard_errors"] <= TRUSTED
        else f"A lower bound stands {worst['standard_errors']:.1f} standard errors above what the"
        " sample itself holds",
    ]
    lines[-1] += (
        f" (the largest excess: {worst['standard_errors']:.1f}, {worst['estimator']} on"
        f" {worst['source']})."
    )
    seconds = found["seconds"]
    lines.append(
        f"Time: median {seconds['median']:.1f} s, at most {seconds['most']:.1f} s a source."
    )
    if "peer_seconds" in found:
        peer = found["peer_seconds"]
        ratio = f"{found['peer_time_over_ours']:.2f} times ours in the median"
        lines.append(
            f"benchmark-mi's InfoNCE: median {peer['median']:.1f} s, at most {peer['most']:.1f}"
            f" s; {ratio}."
        )
    return "\n".join(lines)


def markdown(found: dict[str, Any]) -> str:
    """The table for a page: truth, own information, each estimate with its 95% interval, and the
    verdict.
    """
    columns = [key for key in DEFAULT if any(key in row["estimators"] for row in found["rows"])]
    peer = "peer" in found["rows"][0]
    head = [
        "source",
        "dimensions",
        "truth",
        "sample's own",
        *columns,
        "verdict",
        *(["benchmark-mi infonce"] if peer else []),
    ]
    lines = [
        summary(found).replace("\n", "  \n"),
        "",
        " | ".join(["", *head, ""]).strip(),
        "|" + "---|" * len(head),
    ]
    for row in found["rows"]:
        entries = row["estimators"]
        cells = [
            row["source"],
            " x ".join(map(str, row["dimensions"])),
            f"{row['truth']:.3f}",
            f"{row['own']:z.3f}",
        ]
        cells += [
            f"{entries[key]['value']:z.3f} ± {1.96 * entries[key]['error']:.3f}"
            if key in entries
            else "–"
            for key in columns
        ]
        cells += [entries["infonce"]["verdict"], *([f"{row['peer']:z.3f}"] if peer else [])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
