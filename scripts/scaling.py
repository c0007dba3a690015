"""Bytes that a process hands to the others in a step, and memory that a loss needs, beside the
formulas of docs/scaling.md.

    twobounds scaling
    torchrun --nproc-per-node=2 -m twobounds scaling --batch 64 --queue 4096
    torchrun --nproc-per-node=2 -m twobounds scaling --strategy fsdp

Every collective of a training step is counted, those of DDP and FSDP too, by the tensor that goes
in; what then travels depends on the library. State is what a process holds between steps: weights,
buffers and moments, and gradients. Memory is what loss and gradient need at their peak beyond the
codes; it is measured where MALLOC_TRIM_THRESHOLD_=0 is set, so that what is freed is given back.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # called by its path: the checkout that it stands in comes first
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import parser
from core.errors import UserError, exit_cleanly


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    from scripts.checks.scaling import count

    count(options)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("scaling", __doc__)
    given.add_argument(
        "--batch", type=int, default=256, help="images of the global batch (default: %(default)s)"
    )
    given.add_argument("--queue", type=int, default=4096, help="K (default: %(default)s)")
    given.add_argument(
        "--codes",
        type=int,
        default=4096,
        help="images whose codes the losses compare (default: %(default)s)",
    )
    given.add_argument(
        "--strategy", choices=("auto", "fsdp"), default="auto", help="(default: %(default)s)"
    )
    options = given.parse_args(argv)
    for key, value in vars(options).items():
        if isinstance(value, int) and value < 2:
            raise UserError(f"--{key}: must be 2 or more, got {value}")
    return options


if __name__ == "__main__":
    main()
