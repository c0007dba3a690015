"""What Weights & Biases costs training: steps of a run that logs every tenth of them, beside the same run with `wandb=disabled`.

Two processes train in turns, so that what W&B's own process does while one of them is at work falls on it. The servers are of this
machine: one answers, one refuses, one accepts and never says a word, one falls silent when the run has begun.
"""

import core  # noqa: F401
from core.run import config
from core.run.logger import Logger

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch

from scripts.benches.contest import ROOT, Contest
from scripts.benches.loop import epoch
from scripts.benches.wandb_server import WAYS, Server
from scripts.demo import CONFIGS

BATCH, LOG_EVERY, TIMES = 64, 10, 10  # a turn is 100 steps, of which ten are logged
REFUSES, OFFLINE = "refuses", "offline"


class Run:
    """One run in a process of its own: `train()` lets it take a turn, and gives the mean loss of that turn."""

    def __init__(self, mode: str, url: str, device: torch.device):
        environment = dict(os.environ, WANDB_BASE_URL=url, WANDB_API_KEY="0" * 40)
        words = [sys.executable, "-m", "scripts.benches.logger", mode, str(device)]
        self.process = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def train(self) -> float:
        assert self.process.stdin and self.process.stdout
        print("go", file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def contests(device: torch.device) -> Iterator[Contest]:
    for way in (*WAYS, REFUSES, OFFLINE):
        with ExitStack() as stack:
            server = stack.enter_context(Server(way)) if way in WAYS else None
            url = server.url if server else "http://127.0.0.1:9"
            logged = stack.enter_context(Run("offline" if way == OFFLINE else "online", url, device))
            silent = stack.enter_context(Run("disabled", url, device))

            def same(mine: float, theirs: float, server: Server | None = server) -> str:
                assert mine == theirs, f"losses {mine} and {theirs}"
                until = time.monotonic() + 30
                while server and not server.asked and time.monotonic() < until:
                    time.sleep(0.1)
                assert not server or server.asked, "nothing came to the server"
                return f"loss {mine:.4f} in both"

            name = f"SimCLR, {LOG_EVERY * TIMES} steps of {BATCH}, W&B " + (way if way == OFFLINE else f"whose server {way}")
            yield Contest(name, logged.train, "wandb=disabled", silent.train, same, 0.98)


def main(mode: str, device: torch.device) -> None:
    """Take turns at training until nobody asks any more."""
    run = config.read(str(CONFIGS / "simclr_sprites.yaml"), [f"wandb={mode}"])
    images = torch.randint(256, (LOG_EVERY * BATCH, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    once = epoch("simclr_sprites", [f"optim.batch_size={BATCH}", "optim.warmup_epochs=0"], images, device)
    with tempfile.TemporaryDirectory() as folder:
        logger = Logger(run, Path(folder))
        step = 0
        for _ in sys.stdin:
            losses = []
            for _ in range(TIMES):
                losses.append(once())
                step += LOG_EVERY
                logger.metrics({"loss": losses[-1]}, step)
            print(sum(losses) / TIMES, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], torch.device(sys.argv[2]))
