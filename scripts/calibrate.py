"""Compare estimates of mutual information with the known information of many sources.

    twobounds calibrate                             # our own suite, about 10 minutes on 2 CPU cores
    twobounds calibrate --only student,spiral --pairs 2000
    twobounds calibrate --peer ~/bmi/bin/python     # benchmark-mi's tasks, its InfoNCE and ours

A table and a picture are written. The sources are in probes/samples/benchmark_sources.py. --peer
takes the Python of another environment that holds benchmark-mi, which needs an older numpy:
python -m venv ~/bmi && ~/bmi/bin/pip install "jax==0.4.30" "jaxlib==0.4.30" benchmark-mi. Then
benchmark-mi and this program estimate each task, one after the other.

The sample's own information is the mean of the pointwise information of its pairs; it differs from
the truth only by chance. A lower bound should not exceed it by more than 3 standard errors. The
table has this number beside the bounds; the text above the table names the bound that exceeds it
most or is closest below it.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import parser
from core.errors import UserError, exit_cleanly
from scripts.shared import option, require_seeds

if TYPE_CHECKING:
    from probes.samples.benchmark_sources import Known
    from scripts.benchmark_mi import Peer


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    from core.console import plain_console
    from core.run.folder import make_folder
    from probes.report import store, truth_figures
    from probes.samples import calibration

    make_folder(options.out.parent, "--out", "name another")
    console, started = plain_console(), time.monotonic()
    rows = []
    for name, source, peer in tasks(options):
        began = time.monotonic()
        row = calibration.measure(name, source, options.estimator_seed)
        row["seconds"] = time.monotonic() - began
        rows.append(row | (peer.estimate(name) if peer else {}))
        console.print(calibration.line(rows[-1]))
    if not rows:
        raise UserError(f"--only: no source has {options.only} in its name")
    origin = "benchmark-mi" if options.peer else "suite"
    found = calibration.collect(rows, options.pairs, options.seed, origin)
    console.print(calibration.summary(found))
    store.write_json(options.out.with_suffix(".json"), found)
    store.write_text(options.out.with_suffix(".md"), calibration.markdown(found))
    truth_figures.calibration(found, options.out.with_suffix(".png"))
    console.print(f"Done in {time.monotonic() - started:.0f} s: {options.out}.md, .png and .json")


def tasks(options: argparse.Namespace) -> Iterator[tuple[str, "Known", "Peer | None"]]:
    """Each task: its name, its pairs, and the peer, or None if no peer estimates these pairs."""
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
    option(given, "--pairs", "number of pairs of each source", 5000)
    option(given, "--seed", "seed of the pairs", 0)
    option(given, "--estimator-seed", "seed of the folds and the critics", 0)
    option(given, "--only", "words, separated by commas: only sources with one of them in the name")
    option(given, "--peer", "the Python of an environment with benchmark-mi", type=Path)
    option(given, "--out", "path of the files, without their suffixes", Path("runs/calibration"))
    options = given.parse_args(argv)
    if options.pairs < 50:
        raise UserError(f"--pairs: must be 50 or more, got {options.pairs}")
    require_seeds(seed=options.seed, estimator_seed=options.estimator_seed)
    if not options.out.name or options.out.is_dir():
        example = options.out / "calibration"
        raise UserError(
            f"--out: {options.out} is a folder; name the files without suffix, such as {example}"
        )
    return options


if __name__ == "__main__":
    main()
