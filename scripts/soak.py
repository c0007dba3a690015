"""Kill a run again and again in every way a run dies, resume it, and hold its end against that of
an uninterrupted run.

    twobounds soak simclr_sprites --kills 20
    twobounds soak moco_sprites --kills 20 --processes 2 optim.epochs=4

The ways: `kill`, kill -9; `early`, the same while it starts; `term` and `usr1`, a scheduler's
signals (exit code 75, and not one step may be lost); `full`, a limited file size, so that a
checkpoint can be written in part only (exit code 2, and the one before is whole); `torn`, kill -9
and then a last.ckpt that is cut short, as by a disk that lied in a power cut; and `rank`, with
several processes, kill -9 of one of them: the others have to end by themselves. At the end weights,
queue and optimiser have to be those of the untouched run bit by bit (of several processes, to
1e-6), and metrics.jsonl the same text. The exit code is 0 only then.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # called by its path: the checkout that it stands in comes first
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import parser
from core.errors import exit_cleanly


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    given = arguments(argv)
    from scripts.checks.soak import check

    check(given)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    words = parser("soak", __doc__)
    words.add_argument("config", help="a YAML file, such as those in configs/")
    words.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="any key of the config; a short run with small checkpoints soaks best",
    )
    words.add_argument(
        "--kills", type=int, default=20, help="how often the run dies (default: %(default)s)"
    )
    words.add_argument(
        "--processes",
        type=int,
        default=1,
        help="processes of the run, on the CPU if there are several (default: %(default)s)",
    )
    words.add_argument(
        "--seed", type=int, default=0, help="of the ways and the moments (default: %(default)s)"
    )
    words.add_argument(
        "--out",
        type=Path,
        default=Path("runs/soak"),
        help="a folder that is not there yet (default: %(default)s)",
    )
    return words.parse_intermixed_args(argv)


if __name__ == "__main__":
    main()
