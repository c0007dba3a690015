"""The cost of Weights & Biases: a run that logs every tenth step, against the same run with
`wandb=disabled`.

Processes of both kinds train in turns, so that other work on the machine slows both equally. There
are several of each kind, because even two processes of the same run differ by some percent. The
work of W&B's own process between the turns is not counted. The servers run on this machine: one
answers, one refuses connections, one accepts them and never answers, and one stops answering when
the run has begun. A run that is offline has no server.
"""

import functools
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from configs import CONFIGS
from core.run import config
from core.run.logger import PATIENCE, Logger
from scripts.benches.contest import ROOT, Contest
from scripts.benches.loop import epoch
from scripts.benches.wandb_server import WAYS, Server

BATCH, LOG_EVERY, TIMES = 64, 10, 10  # a turn is 100 steps, of which ten are logged
PROCESSES = 4  # of either kind
REFUSES, OFFLINE = "refuses", "offline"


class Run:
    """One run in its own process; `train()` gives it a turn and returns the mean loss."""

    def __init__(self, mode: str, url: str, device: torch.device, folder: Path):
        self.folder = folder
        folder.mkdir()
        own = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40, "TMPDIR": str(folder)}
        words = [sys.executable, "-m", "scripts.benches.logger", mode, str(device), str(folder)]
        with open(folder / "errors", "w") as errors:
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
            self.process = subprocess.Popen(
                words, cwd=ROOT, env=os.environ | own, text=True, **pipes
            )

    def train(self) -> float:
        assert self.process.stdin and self.process.stdout
        print("go", file=self.process.stdin, flush=True)
        if not (told := self.process.stdout.readline()):
            raise RuntimeError(f"logger: {(self.folder / 'errors').read_text().strip()}")
        return float(told)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # a regular end would wait for the server
        self.process.communicate()


def contests(device: torch.device) -> Iterator[Contest]:
    for way in (*WAYS, REFUSES, OFFLINE):
        with ExitStack() as stack:
            made = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(made))
            server = stack.enter_context(Server(way)) if way in WAYS else None
            url = server.url if server else "http://127.0.0.1:9"
            modes = ["offline" if way == OFFLINE else "online", "disabled"] * PROCESSES
            runs = [
                stack.enter_context(Run(mode, url, device, folder / str(i)))
                for i, mode in enumerate(modes)
            ]
            for run in runs:
                run.train()  # warms up
            logged, silent = (
                functools.partial(turn, itertools.cycle(runs[kind::2])) for kind in range(2)
            )
            said = way if way == OFFLINE else f"with a server that {way}"
            name = f"SimCLR, {LOG_EVERY * TIMES} steps of {BATCH}, W&B {said}"
            yield Contest(name, logged, "wandb=disabled", silent, same, 0.98)
            check(way, server, folder)


def turn(runs: Iterator[Run]) -> float:
    return next(runs).train()


def same(mine: float, theirs: float) -> str:
    assert mine == theirs, f"losses {mine} and {theirs}"
    return f"loss {mine:.4f} in both"


def check(way: str, server: Server | None, folder: Path) -> None:
    """AssertionError unless the server behaved as its name says and the metrics arrived."""
    done = {
        "answers": lambda: server and server.steps,
        "hangs": lambda: server and server.asked and any(folder.rglob("offline-run-*/*.wandb")),
        "hangs later": lambda: server and server.begun and any(folder.rglob("run-*/*.wandb")),
    }.get(way, lambda: any(folder.rglob("offline-run-*/*.wandb")))
    until = time.monotonic() + 20 * PATIENCE  # W&B itself may be slow
    while not done():
        assert time.monotonic() < until, f"W&B {way}: the server did not behave as planned"
        time.sleep(0.1)


def main(mode: str, device: torch.device, folder: Path) -> None:
    """Train one turn for each line of the input, until the input ends."""
    run = config.read(str(CONFIGS / "simclr_sprites.yaml"), [f"wandb={mode}"])
    shape, generator = (LOG_EVERY * BATCH, 3, 32, 32), torch.Generator().manual_seed(0)
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    overrides = [f"optim.batch_size={BATCH}", "optim.warmup_epochs=0"]
    once = epoch("simclr_sprites", overrides, images, device)
    logger = Logger(run, folder)
    step = 0
    for _ in sys.stdin:
        losses = []
        for _ in range(TIMES):
            losses.append(once())
            step += LOG_EVERY
            logger.metrics({"loss": losses[-1]}, step)
        print(sum(losses) / TIMES, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], torch.device(sys.argv[2]), Path(sys.argv[3]))
