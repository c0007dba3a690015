"""Mutual information of any paired samples, in nats: how much does y tell about x, at least?

    twobounds information pairs.npz
    twobounds information pairs.npz --estimators infonce,alpha,nwj,ksg --seed 1 --json

The file is made by numpy.savez("pairs.npz", x=x, y=y) with x [n, dx] and y [n, dy], row i of one
belonging to row i of the other, rows independent of each other. Critics are cross-fitted: every
pair is scored by critics that never saw it, so a lower bound is one.

    infonce  lower bound, at most log C; the headline
    alpha    lower bound beyond log C (Poole et al. 2019)
    nwj      lower bound, its variance grows as e^I
    js       lower bound: the Jensen-Shannon critic, read through nwj
    dv       lower bound, biased up on finite samples
    smile    no bound
    ksg      no bound; nearest neighbours, few dimensions

Verdicts: converged (more candidates would add little); K-limited (still rising with C); saturated
(log C is what is seen: the truth may be far above); critic-limited (the critic, not the ceiling,
holds the number down). From Python: probes.views.information.estimate(x, y).
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # called by its path: the checkout that it stands in comes first
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import parser
from core.errors import UserError, exit_cleanly
from probes.samples.estimators import DEFAULT, SIDES

if TYPE_CHECKING:
    from rich.table import Table


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    from core.console import plain_console
    from probes.samples.estimate import estimate
    from probes.samples.pairs import load_pairs

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


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("information", __doc__)
    given.add_argument("pairs", type=Path, help="an npz with arrays x and y")
    given.add_argument(
        "--estimators",
        default=",".join(DEFAULT),
        help=f"of {', '.join(SIDES)} (default: %(default)s)",
    )
    given.add_argument(
        "--seed", type=int, default=0, help="of the folds and the critics (default: %(default)s)"
    )
    given.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = given.parse_args(argv)
    if options.seed < 0:
        raise UserError(f"--seed: must be 0 or more, got {options.seed}")
    return options


def table(found: dict[str, Any], name: str, seconds: float) -> "Table":
    """One line an estimator: value, interval, C, ceiling, side and verdict."""
    from rich.table import Table

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
