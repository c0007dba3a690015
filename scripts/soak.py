"""Kill a run in all the ways below, resume it each time, and compare its result with that of an
uninterrupted run.

    twobounds soak simclr_sprites --kills 20
    twobounds soak moco_sprites --kills 20 --processes 2 optim.epochs=4

The ways:

    kill        kill -9
    early       kill -9 while the run starts
    term, usr1  the signals of a scheduler; the exit code must be 75, and no step may be lost
    full        a limit on the size of files, so that a checkpoint can not be written completely;
                the exit code must be 2, and the earlier checkpoint must stay
    torn        kill -9; then last.ckpt is cut short, as may happen in a power cut
    rank        only with several processes: kill -9 of one; the others must end by themselves

The exit code is 0 only if both runs end with equal weights, queues and optimisers. With one process
they must be equal bit by bit, and metrics.jsonl must have the same text. With several processes
they must be equal to 1e-6; the last digits in metrics.jsonl may differ, because the order of sums
may differ. The last line says whether they do.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import parser
from core.errors import exit_cleanly
from scripts.shared import option, overrides


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    given = arguments(argv)
    from scripts.checks.soak import check

    check(given)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    words = parser("soak", __doc__)
    words.add_argument("config", help="a YAML file or the name of a packaged config")
    overrides(words, "any key of the config, to make the run short and its checkpoints small")
    option(words, "--kills", "how often the run dies", 20)
    option(words, "--processes", "processes of the run; several processes run on the CPU", 1)
    option(words, "--seed", "seed of the random ways and times", 0)
    option(words, "--out", "a folder that does not exist yet", Path("runs/soak"))
    return words.parse_intermixed_args(argv)


if __name__ == "__main__":
    main()
