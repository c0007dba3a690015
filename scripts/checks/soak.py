"""The check of `twobounds soak`: compare a killed and resumed run with an uninterrupted one."""

import argparse
import contextlib
import gc
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
from core.method import locate

# some of these modules are imported only so that forked processes find them loaded
from core.run import checkpoint, config, dry_run, loop, validation  # noqa: F401
from core.run.folder import RunFolder, make_folder
from core.run.preemption import REQUEUE
from probes.labels import knn  # noqa: F401
from scripts import pretrain
from scripts.patience import Patience, stamp

WAYS = ("kill", "early", "term", "usr1", "full", "torn")  # and "rank" with several processes
# the exit codes of each way; a process that ends because another one has ended has code 1
ENDS = {"term": {REQUEUE}, "usr1": {REQUEUE}, "full": {2, 1}}
# A life is one start of the run until it dies. Its process is forked with all modules imported, so
# it starts in half a second instead of ten.
FORK = multiprocessing.get_context("fork")


@dataclass
class Account:
    """What happened: the number of deaths of each kind, repeated steps, and seconds."""

    deaths: dict[str, int]
    again: list[int] = field(default_factory=list)  # repeated steps after each death
    # from a death to the first new step
    recoveries: list[float] = field(default_factory=list)
    # from the kill of one process to the end of all others
    endings: list[float] = field(default_factory=list)

    def summary(self) -> str:
        ways = ", ".join(f"{count} {way}" for way, count in self.deaths.items())
        told = f"{sum(self.deaths.values())} deaths ({ways})"
        told += f"; {sum(self.again)} steps were trained again, at most {max(self.again)} after one"
        told += " death"
        told += f"; longest recovery {max(self.recoveries):.1f} s"
        if self.endings:
            seconds = max(self.endings)
            told += f"; the other processes ended within {seconds:.1f} s after one was killed"
        return told


def life(words: list[str], output: Path, rank: int, world: int, port: int, limit: int) -> None:
    """One process of a run, started as torchrun would start `pretrain.py`; `limit` is the largest
    file that it may write, in bytes (0 = no limit).
    """
    if world > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        place |= {"GROUP_RANK": 0, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in place.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "soak"}
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    pretrain.main(words)


class Run:
    """A run in a folder that is started repeatedly."""

    def __init__(self, folder: Path, config: str, overrides: list[str], processes: int):
        self.files, self.world = RunFolder(folder), processes
        self.output = folder.with_suffix(".out")
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
        """The last logged step, or 0."""
        lines = self.files.metrics.read_bytes().splitlines() if self.files.metrics.exists() else []
        for line in reversed(lines):
            try:
                return int(json.loads(line)["step"])
            except ValueError:
                continue  # torn by a kill
        return 0

    def patience(self) -> Patience:
        """Waits as long as steps are logged, checkpoints are written or text is printed."""
        places = (self.files.last, self.files.metrics, self.output)
        return Patience(self.processes, lambda: [stamp(place) for place in places])

    def wait_for(self, step: int) -> bool:
        """Wait until that step is logged; False if the run ends before."""
        patience = self.patience()
        while self.step() < step:
            if not any(process.is_alive() for process in self.processes):
                return False
            if patience.is_over():
                raise UserError(f"the run hangs at step {self.step()}; {self.output} says why")
            time.sleep(0.002)
        return True

    def join(self) -> list[int | None]:
        """The exit codes, after every process has ended."""
        patience = self.patience()
        while alive := [process for process in self.processes if process.is_alive()]:
            alive[0].join(0.2)
            if patience.is_over():
                for process in alive:
                    process.kill()
                raise UserError(f"a process of the run hangs; {self.output} shows its output")
        return [process.exitcode for process in self.processes]

    def resumes_at(self) -> int:
        """The step of the newest undamaged checkpoint, from which the run resumes, or 0."""
        for path in self.files.versions():
            with contextlib.suppress(checkpoint.Damaged):
                return int(checkpoint.read(path)["step"])
        return 0


def die(run: Run, way: str, total: int, draw: random.Random) -> float | None:
    """End a run in one of the ways. Returns the seconds until all processes have ended, or None if
    the run was finished before.
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
    # a finished run that starts again may get the signal before it has set a handler
    if not any(codes) or (run.step() == total and -signal.SIGUSR1 in codes):
        return None
    if not set(codes) <= wanted:
        said = f"after '{way}' the exit codes were {codes}, and not all of {sorted(wanted)}"
        raise UserError(f"{said}; {run.output} says more")
    last = run.files.last
    if way == "torn" and last.exists() and len(run.files.versions()) > 1:  # one stays intact
        last.write_bytes(last.read_bytes()[: draw.randrange(last.stat().st_size)])
    return time.monotonic() - asked


def soak(run: Run, kills: int, total: int, size: int, draw: random.Random) -> Account:
    """Run `total` steps, with `kills` deaths before the end; a checkpoint has `size` bytes."""
    known = ["rank", *WAYS] if run.world > 1 else WAYS
    ways = list(itertools.islice(itertools.cycle(known), kills))
    draw.shuffle(ways)
    account, reached, died = Account(dict.fromkeys(sorted(set(ways)), 0)), 0, 0.0
    for number, way in enumerate([*ways, "none"]):
        run.start(draw.randrange(size // 10, size) if way == "full" else 0)
        if way == "early":
            # it dies while it starts, reads the checkpoint or repeats lost steps
            until = time.monotonic() + draw.random()
            while time.monotonic() < until and run.step() <= reached:
                time.sleep(0.002)
        else:
            alive = run.wait_for(min(reached + 1, total))
            if alive and died:
                account.recoveries.append(time.monotonic() - died)
                died = 0.0
            if alive and way not in ("full", "none"):
                alive = run.wait_for(round(0.8 * total * (number + draw.random()) / kills))
                time.sleep(0.02 * draw.random())  # anywhere in a step, or in the save after it
            if not alive and way != "full":
                if not any(run.join()):
                    continue  # it finished before the signal arrived
                raise UserError(
                    f"start {number + 1} of the run ended by itself; {run.output} says why"
                )
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
        at = f"{way} at step {run.step()} of {total}, continues from {resumed}"
        print(f"death {number + 1} of {kills}: {at}", flush=True)
    if any(run.join()):
        raise UserError(f"the last start of the run failed; {run.output} says why")
    return account


def largest_difference(a: Any, b: Any) -> float:
    """0 if two nested containers of tensors are equal bit by bit, else the largest |a - b| /
    max |b|; inf if shapes differ.
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor) and (a.shape, a.dtype) == (b.shape, b.dtype):
        if torch.equal(a, b):
            return 0.0
        return ((a - b).double().abs().max() / b.double().abs().max()).item()
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return max((largest_difference(a[key], b[key]) for key in a), default=0.0)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return max(map(largest_difference, a, b), default=0.0)
    return 0.0 if type(a) is type(b) and a == b else math.inf


def check(given: argparse.Namespace) -> None:
    """Train one run without interruption and one with all deaths, and compare their ends. Exit code
    1 if they differ.
    """
    if given.out.exists():
        raise UserError(f"--out: {given.out} exists already; name another folder")
    if min(given.kills, given.processes) < 1:
        raise UserError("--kills, --processes: must be 1 or more")
    # refuses mistakes before the folder is made, and imports the method before a life forks
    locate(config.read(given.config, given.overrides).method)
    make_folder(given.out, "--out", "name another one")
    whole, killed = (
        Run(given.out / name, given.config, given.overrides, given.processes)
        for name in ("untouched", "killed")
    )
    gc.freeze()  # else the first garbage collection of a life copies the memory it shares with us
    began = time.monotonic()
    whole.start()
    if any(whole.join()):
        raise UserError(f"even the uninterrupted run failed; {whole.output} says why")
    untouched, last = time.monotonic() - began, checkpoint.read(whole.files.last)
    size, draw = whole.files.last.stat().st_size, random.Random(given.seed)
    account = soak(killed, given.kills, last["step"], size, draw)
    ended = checkpoint.read(killed.files.last)
    difference = max(
        largest_difference(ended[entry], last[entry])
        for entry in ("method", "optimizer", "step", "best")
    )
    same_log = whole.files.metrics.read_text() == killed.files.metrics.read_text()
    through = time.monotonic() - began - untouched
    described = f"{given.config}, {given.processes} process(es), {last['step']} steps"
    print(f"{described}, seed {given.seed}: {account.summary()}")
    print(f"uninterrupted {untouched:.1f} s, with all deaths {through:.1f} s")
    off = f"largest relative difference {difference:.2g}" if difference else "the same, bit by bit"
    print(f"weights, queue and optimiser: {off}")
    print(f"metrics.jsonl: {'the same text' if same_log else 'DIFFERS'}")
    alone = given.processes == 1
    if difference > (0.0 if alone else 1e-6) or (alone and not same_log):
        raise SystemExit(1)
