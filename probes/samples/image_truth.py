"""Bounds on images of known information: the numbers of one source, and the page of all sources."""

import math
import time
from typing import Any

from core.data.identity import digest
from probes.report.table import markdown as in_markdown
from probes.samples.calibration import TRUSTED, verdicts, with_error
from probes.samples.estimate import estimate
from probes.samples.image_sources import ImagePairs, ImageSource

Row = dict[str, Any]
ESTIMATORS = ("infonce", "alpha", "nwj", "dv", "smile")
LOWER = ("infonce", "alpha", "nwj")  # lower bounds on a finite sample, too
PEERS = {"mine": "MINE", "dv": "DV"}
FORMAT = 3  # increase it if the code computes other numbers for the same key


def key_of(name: str, pairs: ImagePairs, seed: int) -> dict[str, Any]:
    """All that a row is computed from."""
    sides = [digest(side.tobytes()) for side in (pairs.x, pairs.y)]
    own = digest(pairs.pointwise.tobytes())
    return {"source": name, "sides": sides, "pointwise": own, "seed": seed, "format": FORMAT}


def measure(name: str, source: ImageSource, pairs: ImagePairs, seed: int) -> Row:
    """The bounds on one source, with its truth, the sample's own information, and the best possible
    InfoNCE with the same number of candidates.
    """
    began = time.process_time()
    found = estimate(pairs.x, pairs.y, ESTIMATORS, seed, name)
    own = pairs.pointwise
    candidates = found["estimators"]["infonce"]["candidates"]
    return {
        "pairs": len(own),
        "dimensions": found["dimensions"],
        "truth": source.information,
        "own": float(own.mean()),
        "own_error": float(own.std() / math.sqrt(len(own))),
        "candidates": candidates,
        "best": source.best(candidates),
        "estimators": found["estimators"],
        "doubling": found["doubling"],
        "remarks": found["remarks"],
        "cpu_seconds": time.process_time() - began,
    }


def line(row: Row) -> str:
    """The line that is printed when a row is done."""
    entries = row["estimators"]
    parts = [f"{key} {with_error(entries[key])}" for key in ESTIMATORS if key in entries]
    peers = [
        f"{PEERS[key]} {peer['held_out']:z.2f} (training batches {peer['training']:z.2f})"
        for key, peer in row["peers"].items()
    ]
    said = f"{row['source']}, n = {row['pairs']:,}: truth {row['truth']:.3f}"
    return " · ".join([said, *parts, entries["infonce"]["verdict"], *peers])


def summary(found: dict[str, Any]) -> str:
    """The numbers over all rows, in words."""
    rows = found["rows"]
    bounds = [(_excess(row, key), key, row) for row in rows for key in LOWER if _has(row, key)]
    most, key, worst = max(bounds, key=lambda found: found[0])
    said = f"A lower bound is more than {TRUSTED:g} standard errors above"
    if most <= TRUSTED:
        said = f"No lower bound ({', '.join(LOWER)}) is more than {TRUSTED:g} standard errors above"
    side = f"{'above' if most > 0 else 'below'} it"
    judged = verdicts(rows)
    lines = [
        f"{len(rows)} rows, seed {found['seed']}; all values are in nats.",
        f"{said} the information of its sample. The {'highest' if most > TRUSTED else 'closest'}"
        f" one, {key} on {worst['source']}, n = {worst['pairs']:,}, is {abs(most):.1f} standard"
        f" errors {side}.",
        f"InfoNCE is more than 10 % below the truth in {judged['short']} rows; the verdict is"
        f" converged in {len(judged['short_converged'])} of them. It is at most 5 % below the"
        f" truth, or above it, in {judged['near']} rows; the verdict is converged in"
        f" {judged['near_converged']} of them.",
    ]
    for key, name in PEERS.items():
        high = [row for row in rows if _peer_above(row, key, "training")]
        held = [row for row in rows if _peer_above(row, key, "held_out")]
        most = max((row["peers"][key]["training"] - row["truth"] for row in high), default=0.0)
        by = f" (by {most:.2f} at most)" if high else ""
        lines.append(
            f"{name} on its training batches, as published, is above the truth by more than 0.1"
            f" nats in {len(high)} of {len(rows)} rows{by}. On held-out pairs, this is so in"
            f" {len(held)} rows."
        )
    return "\n".join(lines)


def _has(row: Row, key: str) -> bool:
    return key in row["estimators"]


def _excess(row: Row, key: str) -> float:
    """By how many of its own standard errors a bound exceeds the information of the sample."""
    entry = row["estimators"][key]
    return float((entry["value"] - row["own"]) / max(entry["error"], 1e-9))


def _peer_above(row: Row, key: str, figure: str) -> bool:
    return bool(row["peers"][key][figure] > row["truth"] + 0.1)


HEAD = ("source", "n", "C", "truth", "sample's own", "best at C", *ESTIMATORS, "verdict")
PEER_HEAD = (
    "source",
    "n",
    "truth",
    *(
        f"{name}, {figure}"
        for name in PEERS.values()
        for figure in ("training batches", "held out")
    ),
)


def markdown(found: dict[str, Any]) -> str:
    """The page: what the rows show, the bounds of every row, and the two peers beside them."""
    lines = [
        "# Bounds on images of known information",
        "",
        found["about"],
        "",
        summary(found).replace("\n", "  \n"),
        "",
        f"![Bounds against the truth]({found['picture']})",
        "",
        "## Held-out bounds",
        "",
        "`infonce`, `alpha` and `nwj` are lower bounds; `dv` is biased up on a sample, and `smile`"
        " is not a bound. The 95% intervals are those of the bound's own mean, so the truth may"
        " lie above them. *Best at C* is the largest expected InfoNCE of any critic with C"
        " candidates. A dash marks a value that is left out, because the pairs are too few to"
        " compute its mean of e^f (f: the critic).",
        "",
        *in_markdown(HEAD, [_bounds(row) for row in found["rows"]]),
        "",
        "## Estimators of others",
        "",
        "These are MINE and the Donsker-Varadhan bound. As published, they are evaluated on"
        " training batches (the mean over the last quarter of them). The columns *held out* show"
        " the same critics on a fifth of the pairs, which they have not seen, with 95% intervals.",
        "",
        *in_markdown(PEER_HEAD, [_peers(row) for row in found["rows"]]),
    ]
    return "\n".join(lines) + "\n"


def _bounds(row: Row) -> list[str]:
    entries = row["estimators"]
    cells = [row["source"], f"{row['pairs']:,}", f"{row['candidates']:,}", f"{row['truth']:.3f}"]
    cells += [f"{row['own']:z.3f}", f"{row['best']:z.3f}"]
    cells += [with_error(entries[key]) if key in entries else "–" for key in ESTIMATORS]
    return [*cells, entries["infonce"]["verdict"]]


def _peers(row: Row) -> list[str]:
    cells = [row["source"], f"{row['pairs']:,}", f"{row['truth']:.3f}"]
    for peer in row["peers"].values():
        held = with_error({"value": peer["held_out"], "error": peer["error"]})
        cells += [f"{peer['training']:z.3f}", held]
    return cells
