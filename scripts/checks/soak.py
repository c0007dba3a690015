"""A run that is killed and resumed, and its end beside that of an uninterrupted one."""

import argparse
import contextlib
import itertools
import json
import math
import multiprocessing
import os
import random
import resource
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.run import checkpoint, config, dry_run, loop  # noqa: F401  imported before a life forks
from core.run.folder import RunFolder, make_folder
from core.run.preemption import REQUEUE
from probes.labels import knn  # noqa: F401
from scripts import pretrain
from scripts.patience import Patience, stamp

WAYS = (
    "kill",
    "early",
    "term",
    "usr1",
    "full",
    "torn",
)  # and "rank" where there are several processes
ENDS = {
    "term": {REQUEUE},
    "usr1": {REQUEUE},
    "full": {2, 1},
}  # exit codes of a life; 1 is that of a process whose peer has gone
FORK = multiprocessing.get_context(
    "fork"
)  # a life begins where all is imported: half a second instead of ten


@dataclass
class Account:
    """What a soak has seen."""

    deaths: dict[str, int]
    again: list[int] = field(default_factory=list)  # steps that had to be trained again, by death
    recoveries: list[float] = field(
        default_factory=list
    )  # seconds from a death to the first step beyond all that was reached before it
    endings: list[float] = field(
        default_factory=list
    )  # seconds until the others had ended when one process was killed

    def summary(self) -> str:
        ways = ", ".join(f"{count} {way}" for way, count in self.deaths.items())
        told = f"{sum(self.deaths.values())} deaths ({ways})"
        told += f"; steps trained again {sum(self.again)}, at most {max(self.again)} by one death"
        told += f"; longest recovery {max(self.recoveries):.1f} s"
        return told + (
            f"; the others ended within {max(self.endings):.1f} s of a killed process"
            if self.endings
            else ""
        )


def life(words: list[str], output: Path, rank: int, world: int, port: int, limit: int) -> None:
    """One process of a run, as `pretrain.py` would be started by torchrun; `limit` is the largest
    file that it may write, in bytes.
    """
    if world > 1:
        place = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": world,
            "LOCAL_WORLD_SIZE": world,
            "GROUP_RANK": 0,
            "MASTER_PORT": port,
        }
        os.environ |= {name: str(value) for name, value in place.items()} | {
            "MASTER_ADDR": "127.0.0.1",
            "TORCHELASTIC_RUN_ID": "soak",
        }
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    pretrain.main(words)


class Run:
    """A run in a folder, started as often as it takes."""

    def __init__(self, folder: Path, config: str, overrides: list[str], processes: int):
        self.files, self.world, self.output = (
            RunFolder(folder),
            processes,
            folder.with_suffix(".out"),
        )
        settings = [f"folder={folder}", "trainer.log_every=1", "wandb=disabled", "resume=true"]
        if processes > 1:
            settings += [f"trainer.devices={processes}", "trainer.accelerator=cpu"]
        self.words = [config, *overrides, *settings]
        self.processes: list[multiprocessing.process.BaseProcess] = []

    def start(self, limit: int = 0) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.processes = [
            FORK.Process(target=life, args=(self.words, self.output, rank, self.world, port, limit))
            for rank in range(self.world)
        ]
        for process in self.processes:
            process.start()

    def step(self) -> int:
        """The newest step that was logged, 0 where none was."""
        lines = self.files.metrics.read_bytes().splitlines() if self.files.metrics.exists() else []
        for line in reversed(lines):
            try:
                return int(json.loads(line)["step"])
            except ValueError:
                continue  # torn by a kill
        return 0

    def patience(self) -> Patience:
        """As long as steps are logged, checkpoints are written or something is said."""
        places = (self.files.last, self.files.metrics, self.output)
        return Patience(self.processes, lambda: [stamp(place) for place in places])

    def wait_for(self, step: int) -> bool:
        """Wait until that step is logged; False where the run ended before."""
        patience = self.patience()
        while self.step() < step:
            if not any(process.is_alive() for process in self.processes):
                return False
            if patience.is_over():
                raise UserError(
                    f"the run stands still at step {self.step()}; {self.output} says why"
                )
            time.sleep(0.002)
        return True

    def join(self) -> list[int | None]:
        """The exit codes, once every process has ended."""
        patience = self.patience()
        while alive := [process for process in self.processes if process.is_alive()]:
            alive[0].join(0.2)
            if patience.is_over():
                for process in alive:
                    process.kill()
                raise UserError(
                    f"a process of the run neither gets on nor ends; {self.output} says what it did"
                )
        return [process.exitcode for process in self.processes]

    def resumes_at(self) -> int:
        """The step of the newest checkpoint that is whole, from which the next life goes on; 0
        where there is none yet.
        """
        for path in self.files.versions():
            with contextlib.suppress(checkpoint.Damaged):
                return int(checkpoint.read(path)["step"])
        return 0


def die(run: Run, way: str, total: int, draw: random.Random) -> float | None:
    """End the present life of a run in that way; the seconds until all processes had ended, None
    where the run got to its end first.
    """
    asked = time.monotonic()
    if way in ("term", "usr1"):
        for process in run.processes:
            os.kill(process.pid or 0, signal.SIGTERM if way == "term" else signal.SIGUSR1)
    elif way == "rank":
        draw.choice(run.processes).kill()
    elif way != "full":
        for process in run.processes:
            process.kill()
    codes, wanted = run.join(), ENDS.get(way, {-signal.SIGKILL, 1})
    if not any(codes) or (
        run.step() == total and -signal.SIGUSR1 in codes
    ):  # a finished run's next life is told before it listens
        return None
    if not set(codes) <= wanted:
        raise UserError(
            f"after '{way}' the exit codes were {codes}, not of {sorted(wanted)}; {run.output}"
            " says more"
        )
    last = run.files.last
    if (
        way == "torn" and last.exists() and len(run.files.versions()) > 1
    ):  # one disk's lie at a time
        last.write_bytes(last.read_bytes()[: draw.randrange(last.stat().st_size)])
    return time.monotonic() - asked


def soak(run: Run, kills: int, total: int, size: int, draw: random.Random) -> Account:
    """A run of `total` steps, ended `kills` times before it may finish; one of its checkpoints
    takes `size` bytes.
    """
    ways = list(
        itertools.islice(itertools.cycle([*WAYS, "rank"] if run.world > 1 else WAYS), kills)
    )
    draw.shuffle(ways)
    account, reached, died = Account(dict.fromkeys(sorted(set(ways)), 0)), 0, 0.0
    for number, way in enumerate([*ways, "none"]):
        run.start(draw.randrange(size // 10, size) if way == "full" else 0)
        if way == "early":
            until = (
                time.monotonic() + draw.random()
            )  # while it starts, reads the checkpoint or takes again the steps that were lost
            while time.monotonic() < until and run.step() <= reached:
                time.sleep(0.002)
        else:
            alive = run.wait_for(min(reached + 1, total))
            if alive and died:
                account.recoveries.append(time.monotonic() - died)
                died = 0.0
            if alive and way not in ("full", "none"):
                alive = run.wait_for(round(0.8 * total * (number + draw.random()) / kills))
                time.sleep(
                    draw.random() * 0.02
                )  # anywhere in a step, or in the save that follows it
            if not alive and way != "full":
                if not any(run.join()):
                    continue  # it got to its end before a signal got to it
                raise UserError(f"life {number + 1} ended by itself; {run.output} says why")
        if way == "none":
            break
        asked = time.monotonic()
        seconds = die(run, way, total, draw)
        if seconds is None:
            continue
        died = died or asked
        account.deaths[way] += 1
        account.endings += [seconds] if way == "rank" else []
        resumed = run.resumes_at()
        if way in ("term", "usr1") and resumed < run.step():
            raise UserError(f"'{way}' lost {run.step() - resumed} steps; {run.output} says more")
        account.again.append(max(0, run.step() - resumed))
        reached = max(reached, run.step())
        print(
            f"death {number + 1} of {kills}: {way} at step {run.step()} of {total}, goes on from"
            f" {resumed}",
            flush=True,
        )
    if any(run.join()):
        raise UserError(f"the run did not end well; {run.output} says why")
    return account


def largest_difference(a: Any, b: Any) -> float:
    """0 where two nested containers of tensors are the same bit by bit, else the largest |a - b| /
    max |b|; inf where shapes differ.
    """
    if (
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and a.shape == b.shape
        and a.dtype == b.dtype
    ):
        return (
            0.0
            if torch.equal(a, b)
            else ((a - b).double().abs().max() / b.double().abs().max()).item()
        )
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return max((largest_difference(a[key], b[key]) for key in a), default=0.0)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return max(map(largest_difference, a, b), default=0.0)
    return 0.0 if type(a) is type(b) and a == b else math.inf


def check(given: argparse.Namespace) -> None:
    """Train one run without interruption and one through all deaths, and compare their ends.
    Exits with 1 where they differ.
    """
    if given.out.exists():
        raise UserError(f"--out: {given.out} is there already; name another one")
    if min(given.kills, given.processes) < 1:
        raise UserError("--kills and --processes: at least 1")
    config.read(given.config, given.overrides)  # a mistake in it is one line now, and no folder
    make_folder(given.out, "--out", "name another one")
    whole, killed = (
        Run(given.out / name, given.config, given.overrides, given.processes)
        for name in ("untouched", "killed")
    )
    began = time.monotonic()
    whole.start()
    if any(whole.join()):
        raise UserError(f"the run did not end well even when left alone; {whole.output} says why")
    untouched, last = time.monotonic() - began, checkpoint.read(whole.files.last)
    account = soak(
        killed,
        given.kills,
        last["step"],
        whole.files.last.stat().st_size,
        random.Random(given.seed),
    )
    ended = checkpoint.read(killed.files.last)
    difference = max(
        largest_difference(ended[entry], last[entry])
        for entry in ("method", "optimizer", "step", "best")
    )
    same_log = whole.files.metrics.read_text() == killed.files.metrics.read_text()
    print(
        f"{given.config}, {given.processes} process(es), {last['step']} steps, seed {given.seed}:"
        f" {account.summary()}"
    )
    print(
        f"untouched {untouched:.1f} s, with all deaths {time.monotonic() - began - untouched:.1f} s"
    )
    off = f"largest relative difference {difference:.2g}" if difference else "the same, bit by bit"
    print(f"weights, queue and optimiser: {off}")
    print(f"metrics.jsonl: {'the same text' if same_log else 'DIFFERS'}")
    if difference > (0.0 if given.processes == 1 else 1e-6) or not (
        same_log or given.processes > 1
    ):
        raise SystemExit(1)
