"""Mutual information of any paired samples, in nats: how much does y tell about x, at least?

    python scripts/information.py pairs.npz
    python scripts/information.py pairs.npz --estimators infonce,alpha,nwj,ksg --seed 1 --json

The file is made by numpy.savez("pairs.npz", x=x, y=y) with x [n, dx] and y [n, dy], row i of one
belonging to row i of the other, rows independent of each other. Critics are cross-fitted: every
pair is scored by critics that never saw it, so a lower bound is one.

    infonce  lower bound, at most log C; the headline        dv     lower bound, biased up on finite samples
    alpha    lower bound beyond log C (Poole et al. 2019)    smile  no bound
    nwj      lower bound, its variance grows as e^I          ksg    no bound; nearest neighbours, few dimensions
    js       the Jensen-Shannon critic, read through nwj

Verdicts: converged (more candidates would add little); K-limited (still rising with C); saturated
(log C is what is seen: the truth may be far above); critic-limited (the critic, not the ceiling,
holds the number down). From Python: probes.information.estimate(x, y).
"""

import core  # noqa: F401
from core.console import plain_console
from core.errors import UserError, exit_cleanly

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

from rich.table import Table

from probes.estimate import DEFAULT, SIDES, estimate
from probes.pairs import load_pairs


@exit_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", type=Path, help="an npz with arrays x and y")
    parser.add_argument(
        "--estimators",
        default=",".join(DEFAULT),
        help=f"of {', '.join(SIDES)} (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the folds and the critics (default: %(default)s)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )
    options = parser.parse_args()
    if options.seed < 0:
        raise UserError(f"--seed: must be 0 or more, got {options.seed}")
    started = time.monotonic()
    x, y = load_pairs(options.pairs)
    found = estimate(x, y, tuple(options.estimators.split(",")), options.seed, str(options.pairs))
    if options.json:
        print(json.dumps(found))
        return
    console = plain_console(100)
    for remark in found["remarks"]:
        console.print(f"note: {remark}")
    console.print(table(found, str(options.pairs), time.monotonic() - started))
    console.print(found["conclusion"])


def table(found: dict[str, Any], name: str, seconds: float) -> Table:
    """One line an estimator: value, interval, C, ceiling, side and verdict."""
    made = Table(
        title=f"{name}: {found['quantity']} of {found['pairs']:,} pairs, {found['dimensions'][0]}"
        f" x {found['dimensions'][1]} dimensions",
        caption=f"95% intervals; {found['split']}; {seconds:.0f} s",
        title_justify="left",
        caption_justify="left",
        header_style="bold",
    )
    for heading in ("estimator", "nats", "95% interval", "bits", "C", "ceiling", "side", "verdict"):
        made.add_column(
            heading,
            justify="left" if heading in ("estimator", "side", "verdict") else "right",
            no_wrap=True,
        )
    for key, entry in found["estimators"].items():
        made.add_row(
            f"{key} ({entry['alpha']:g})" if "alpha" in entry else key,
            f"{entry['value']:z.3f}",
            f"{entry['low']:z.3f} … {entry['high']:z.3f}",
            f"{entry['value'] / math.log(2):z.2f}",
            f"{entry['candidates']:,}" if entry["candidates"] else "–",
            f"{entry['ceiling']:.2f}" if entry["ceiling"] else "–",
            entry["side"],
            entry["verdict"],
        )
    return made


if __name__ == "__main__":
    main()
