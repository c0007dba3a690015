"""Count the bytes that a process sends in a training step, and measure the memory that a loss
needs. The bytes are printed beside the formulas of docs/scaling.md, and the memory beside the size
of all scores.

    twobounds scaling
    torchrun --nproc-per-node=2 -m twobounds scaling --batch 64 --queue 4096
    torchrun --nproc-per-node=2 -m twobounds scaling --strategy fsdp

Every collective of a step is counted, including those of DDP and FSDP, by the size of its input
tensor. The bytes on the network depend on the library. "State" is what a process holds between
steps: weights, buffers, moments of the optimiser, gradients. "Memory" is the peak of a loss and its
gradient, without the codes. It is measured only if MALLOC_TRIM_THRESHOLD_=0 is set, so that freed
memory is returned to the system.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import parser
from core.errors import UserError, exit_cleanly
from scripts.shared import option


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    from scripts.checks.scaling import count

    count(options)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("scaling", __doc__)
    option(given, "--batch", "images of the global batch", 256)
    option(given, "--queue", "length K of the queue", 4096)
    option(given, "--codes", "images whose codes the losses compare", 4096)
    option(given, "--strategy", "how processes share the model", "auto", choices=("auto", "fsdp"))
    options = given.parse_args(argv)
    for key, value in vars(options).items():
        if isinstance(value, int) and value < 2:
            raise UserError(f"--{key}: must be 2 or more, got {value}")
    return options


if __name__ == "__main__":
    main()
