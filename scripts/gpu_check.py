"""Check that twobounds computes correctly on a GPU, and measure its speed there.

    twobounds gpu-check --out gpu
    twobounds gpu-check --out gpu --only losses,simclr --seconds 120
    twobounds gpu-check --device cpu --out gpu

First, losses, views, random numbers and probes are compared with float64 or the CPU. Then kernels
and training steps are timed and profiled, and an interrupted run is resumed. OUT/summary.txt has
the results, OUT/summary.json all numbers. Both are written after every stage, so a time limit loses
at most one stage. The exit code is 1 if a result is wrong. On a CPU the same code runs with small
sizes; the times then mean nothing.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import parser
from core.errors import UserError, exit_cleanly, nearest
from scripts.shared import option

# seconds that each stage may need, in the order in which they run
LEAST = {
    "machine": 5,
    "losses": 20,
    "as_on_the_cpu": 15,
    "one_graph": 30,
    "queue": 10,
    "in_batch": 10,
    "views": 30,
    "simclr": 30,
    "moco": 30,
    "vae": 15,
    "resume": 60,
    "cifar10": 60,
}


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    given = arguments(argv)
    import torch

    from core.run.folder import make_folder
    from scripts.checks.gpu import exact, graphs, kernels, machine, runs, steps
    from scripts.checks.gpu.report import Check, Stage

    if given.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device: there is no GPU here; --device cpu runs all stages, with small sizes"
        )
    make_folder(given.out, "--out", "name another")
    device = torch.device("cuda", 0) if given.device == "cuda" else torch.device("cpu")
    compiled = device.type == "cuda" if given.compile is None else given.compile
    check = Check(device, given.out.resolve(), given.seconds, compiled)
    stages = {
        "machine": machine.machine,
        "losses": exact.losses,
        "as_on_the_cpu": exact.as_on_the_cpu,
        "one_graph": graphs.one_graph,
        "queue": kernels.queue,
        "in_batch": kernels.in_batch,
        "views": kernels.make_views,
        "simclr": steps.simclr,
        "moco": steps.moco,
        "vae": steps.vae,
        "resume": runs.resume,
        "cifar10": runs.cifar10,
    }
    with ways_of_a_gpu(check.gpu):
        for name in given.only or LEAST:
            check.run(name, Stage(stages[name], LEAST[name]))
    check.say(f"{len(check.failed)} wrong results; {check.folder / 'summary.txt'}")
    check.write()
    if check.failed:
        raise SystemExit(1)


@contextmanager
def ways_of_a_gpu(on_gpu: bool) -> Iterator[None]:
    """Within this context, the losses on a CPU run the same code as on a GPU."""
    from core.information import chunked, flash

    before = flash.DEVICES, chunked.ON_GPU, chunked.DEVICES
    if not on_gpu:
        flash.DEVICES = (*flash.DEVICES, "cpu")
        chunked.ON_GPU, chunked.DEVICES = chunked.ON_CPU, ("cuda", "cpu")
    try:
        yield
    finally:
        flash.DEVICES, chunked.ON_GPU, chunked.DEVICES = before


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("gpu-check", __doc__)
    given.add_argument("--out", type=Path, required=True, help="folder of the results")
    option(given, "--seconds", "time limit for all stages", 440.0)
    given.add_argument("--only", default="", help=f"some of the stages {', '.join(LEAST)}")
    option(given, "--device", "the device to check", "cuda", choices=("cuda", "cpu"))
    given.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="also measure compiled code (default: only on a GPU)",
    )
    options = given.parse_args(argv)
    if not 0 < options.seconds < math.inf:
        raise UserError(f"--seconds: must be above 0, got {options.seconds:g}")
    options.only = [name for name in options.only.split(",") if name]
    for name in options.only:
        if name not in LEAST:
            raise UserError(f"--only: there is no stage '{name}'{nearest(name, list(LEAST))}")
    return options


if __name__ == "__main__":
    main()
