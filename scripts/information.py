"""Bound the mutual information of paired samples, in nats: how much information do x and y share?

    twobounds information pairs.npz
    twobounds information pairs.npz --estimators infonce,alpha,nwj,ksg,anchor --seed 1 --json
    twobounds information images.npz --critic checkpoint=runs/simclr_mnist

Make the file with numpy.savez("pairs.npz", x=x, y=y). Each side is vectors [n, d], labels [n], or
images [n, C, H, W] (uint8 or float). Row i of x belongs to row i of y, and rows are independent of
each other. Critics are cross-fitted: no critic has seen the pairs that it scores, so a lower bound
is valid.

    infonce  lower bound, at most log C for C candidates (1 positive, C - 1 negatives); main result
    alpha    lower bound that may exceed log C (Poole et al. 2019)
    nwj      lower bound; its variance grows as e^I, so it is left out if there are too few pairs
    js       lower bound: a critic trained on the Jensen-Shannon objective, evaluated by nwj
    dv       lower bound, biased upwards on finite samples
    smile    no bound
    anchor   estimate, no bound: the mean of the log density ratio that critics learn if InfoNCE
             has one more class, "no candidate belongs to x"
    ksg      estimate, no bound; nearest neighbours, for few dimensions

Critics: mlp (closed forms and small networks on vectors), conv (convolutional networks), auto (conv
if a side has images), checkpoint=RUN (mlp on the features of a frozen encoder).

Verdicts:

    converged       neither more candidates nor more pairs would add much
    K-limited       the bound still rises with C
    data-limited    critics that were trained on half of the pairs give clearly lower values, or the
                    pairs are too few to exclude this; more pairs may give a higher value
    saturated       the bound is close to log C; the truth may be far above
    critic-limited  the critic limits the bound, not log C
    nothing found   the interval reaches down to zero or below

In Python: probes.estimate(x, y).
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import parser
from core.errors import UserError, exit_cleanly
from probes.samples.estimators import CRITICS, DEFAULT, SIDES
from scripts.shared import option, require_seeds, switch

if TYPE_CHECKING:
    from rich.table import Table


CHECKPOINT = "checkpoint="


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    from core.console import plain_console
    from probes.samples.estimate import estimate
    from probes.samples.pairs import load_pairs

    started = time.monotonic()
    x, y, critic, remarks = *load_pairs(options.pairs), options.critic, []
    if critic.startswith(CHECKPOINT):
        from probes.samples.encoded import encoded

        x, y, remark = encoded(x, y, Path(critic.removeprefix(CHECKPOINT)))
        critic, remarks = "mlp", [remark]
    estimators = tuple(options.estimators.split(","))
    found = estimate(x, y, estimators, options.seed, str(options.pairs), critic)
    found["remarks"] = remarks + found["remarks"]
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
    given.add_argument("pairs", type=Path, help="an npz file with arrays x and y")
    option(given, "--estimators", f"any of {', '.join(SIDES)}", ",".join(DEFAULT))
    option(given, "--critic", "auto, mlp, conv, or checkpoint=RUN (a run folder or .ckpt)", "auto")
    option(given, "--seed", "seed of the folds and the critics", 0)
    switch(given, "--json", "print one JSON object and nothing else")
    options = given.parse_args(argv)
    if options.critic not in CRITICS and not options.critic.startswith(CHECKPOINT):
        raise UserError(
            f"--critic: there is no '{options.critic}'; give auto, mlp, conv or checkpoint=RUN"
        )
    require_seeds(seed=options.seed)
    return options


def table(found: dict[str, Any], name: str, seconds: float) -> "Table":
    """A line for each estimator: value, interval, C, ceiling, side and verdict."""
    from core.information.units import bits
    from probes.report.table import grid

    dx, dy = found["dimensions"]
    doubling = found["doubling"]
    rows = [
        [
            f"{key} ({entry['alpha']:g})" if "alpha" in entry else key,
            f"{entry['value']:z.3f}",
            f"{entry['low']:z.3f} … {entry['high']:z.3f}",
            f"{bits(entry['value']):z.2f}",
            f"{entry['candidates']:,}" if entry["candidates"] else "–",
            f"{entry['ceiling']:.2f}" if entry["ceiling"] else "–",
            entry["side"],
            entry["verdict"],
        ]
        for key, entry in found["estimators"].items()
    ]
    return grid(
        ("estimator", "nats", "95% interval", "bits", "C", "ceiling", "side", "verdict"),
        rows,
        left=("estimator", "side", "verdict"),
        title=f"{name}: {found['quantity']} of {found['pairs']:,} pairs, dimensions {dx} and {dy}",
        caption=f"95% intervals; {found['split']}; {seconds:.0f} s\n"
        f"The second half of the training pairs added {doubling['gain']:z.3f} nats"
        f" ({doubling['low']:z.3f} … {doubling['high']:z.3f}). Extrapolated in 1/n to infinitely"
        f" many pairs: {doubling['extrapolated']:z.2f} nats, an estimate, no bound",
    )


if __name__ == "__main__":
    main()
