"""Hold the estimators against sources whose mutual information is known, and write a table and a
picture.

    twobounds calibrate                             # our own suite, 2 to 5 minutes on 2 CPU cores
    twobounds calibrate --only student,spiral --pairs 2000
    twobounds calibrate --peer ~/bmi/bin/python     # benchmark-mi's tasks, its InfoNCE beside ours

The sources of the suite are in probes/known.py. --peer takes the interpreter of an environment that
holds benchmark-mi (it needs an older numpy than twobounds): python -m venv ~/bmi && ~/bmi/bin/pip
install "jax==0.4.30" "jaxlib==0.4.30" benchmark-mi. Each task is then estimated by both, one after
the other, in one run.

A lower bound should never stand more than 3 standard errors above what the sample itself holds, its
mean pointwise information, which differs from the truth by chance alone; how far below it stands,
the table says.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # called by its path: the checkout that it stands in comes first
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import parser
from core.errors import UserError, exit_cleanly

if TYPE_CHECKING:
    from probes.samples.benchmark_sources import Known
    from scripts.benchmark_mi import Peer


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    from core.console import plain_console
    from core.files import write_atomically
    from core.run.folder import make_folder
    from probes.report import truth_figures
    from probes.samples import calibration

    make_folder(options.out.parent, "--out", "name another")
    console, started = plain_console(), time.monotonic()
    rows = []
    for name, source, peer in tasks(options):
        began = time.monotonic()
        row = calibration.measure(name, source, options.estimator_seed) | {
            "seconds": time.monotonic() - began
        }
        rows.append(row | (peer.estimate(name) if peer else {}))
        console.print(calibration.line(rows[-1]))
    if not rows:
        raise UserError(f"--only: no source has {options.only} in its name")
    found = calibration.collect(
        rows, options.pairs, options.seed, "benchmark-mi" if options.peer else "suite"
    )
    console.print(calibration.summary(found))
    write_atomically(
        options.out.with_suffix(".json"),
        lambda temporary: temporary.write_text(json.dumps(found, indent=1) + "\n"),
    )
    write_atomically(
        options.out.with_suffix(".md"),
        lambda temporary: temporary.write_text(calibration.markdown(found)),
    )
    truth_figures.calibration(found, options.out.with_suffix(".png"))
    console.print(f"Done in {time.monotonic() - started:.0f} s: {options.out}.md, .png and .json")


def tasks(options: argparse.Namespace) -> Iterator[tuple[str, "Known", "Peer | None"]]:
    """Named pairs, and the peer that can estimate them too."""
    from probes.samples.benchmark_sources import SUITE
    from scripts.benchmark_mi import Peer

    wanted = options.only.split(",") if options.only else [""]
    if options.peer:
        with Peer(options.peer, options.pairs, options.seed) as peer:
            for name in peer.names:
                if any(word in name for word in wanted):
                    yield name, peer.draw(name), peer
        return
    for number, (name, source) in enumerate(SUITE.items()):
        if any(word in name for word in wanted):
            yield name, source(options.pairs, options.seed + number), None


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("calibrate", __doc__)
    given.add_argument(
        "--pairs", type=int, default=5000, help="of each source (default: %(default)s)"
    )
    given.add_argument("--seed", type=int, default=0, help="of the pairs (default: %(default)s)")
    given.add_argument(
        "--estimator-seed", type=int, default=0, help="of folds and critics (default: %(default)s)"
    )
    given.add_argument(
        "--only", help="words, separated by commas, one of which is in a source's name"
    )
    given.add_argument("--peer", type=Path, help="a Python that holds benchmark-mi")
    given.add_argument(
        "--out",
        type=Path,
        default=Path("runs/calibration"),
        help="the files, without ending (default: %(default)s)",
    )
    options = given.parse_args(argv)
    if options.pairs < 50:
        raise UserError(f"--pairs: must be 50 or more, got {options.pairs}")
    if min(options.seed, options.estimator_seed) < 0:
        raise UserError("--seed, --estimator-seed: must be 0 or more")
    if not options.out.name or options.out.is_dir():
        raise UserError(
            f"--out: {options.out} is a folder; name the files, without ending, such as"
            f" {options.out / 'calibration'}"
        )
    return options


if __name__ == "__main__":
    main()
