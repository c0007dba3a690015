"""A contest between our code and a peer's: first a check that both compute the same, then times."""

import gc
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]


class Contest(NamedTuple):
    """`ours()` and `peer()` do the same work on the same input.

    `same(ours, peer)` says how close their results are, or raises AssertionError. `target` is the
    ratio that we want; `rounds` limits the turns of contests that take minutes.
    """

    name: str
    ours: Callable[[], Any]
    peer_name: str
    peer: Callable[[], Any]
    same: Callable[[Any, Any], str]
    target: float | None = None
    memory: bool = False  # whether the peak memory of both sides is measured, too
    rounds: int | None = None


class Times(NamedTuple):
    """Seconds of one side."""

    median: float
    low: float  # quartiles
    high: float


def race(contest: Contest, rounds: int, device: torch.device) -> dict[str, Any]:
    """Run both once and compare the results; then time them in turns: medians, quartiles, and the
    ratio peer / ours.
    """
    said = contest.same(contest.ours(), contest.peer())  # these calls also warm up
    sides: tuple[list[float], list[float]] = ([], [])
    for _ in range(min(rounds, contest.rounds or rounds)):
        for side, run in zip(sides, (contest.ours, contest.peer), strict=True):
            side.append(seconds(run, device))
    ours, peer = (_times(side) for side in sides)
    return {
        "name": contest.name,
        "peer_name": contest.peer_name,
        "same": said,
        "ours": ours._asdict(),
        "peer": peer._asdict(),
        "ratio": peer.median / ours.median,
        "target": contest.target,
    }


def within(mine: Iterable[Tensor], peer: Iterable[Tensor], allowed: float = 1e-5) -> float:
    """The largest relative difference of losses and gradients, in the 2-norm; AssertionError if it
    is not below `allowed`.
    """
    error = max(((a - b).norm() / b.norm()).item() for a, b in zip(mine, peer, strict=True))
    assert error < allowed, f"the loss or a gradient differs by {error:.1e}"
    return error


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    _settle(device)
    began = time.perf_counter()
    run()
    _settle(device)
    return time.perf_counter() - began


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _times(seconds: list[float]) -> Times:
    several = len(seconds) > 1
    low, middle, high = statistics.quantiles(seconds, n=4) if several else (seconds[0],) * 3
    return Times(middle, low, high)


def peak(run: Callable[[], Any], device: torch.device) -> int:
    """Bytes that one call allocates at its peak."""
    run()  # memory that is allocated once and kept (thread buffers, compiled code) does not count
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def peak_elsewhere(section: str, name: str, side: str, device: torch.device) -> int:
    """`peak` of one side of a contest, measured in its own process. In a process whose heap has
    already grown, a call may need no new memory, and its peak would be too small.
    """
    words = [sys.executable, "-m", "scripts.benches.contest", section, name, side, str(device)]
    env = dict(os.environ, MALLOC_TRIM_THRESHOLD_="0")
    told = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    if told.returncode:
        raise RuntimeError(f"{section}, {name}: {told.stderr.strip().splitlines()[-1]}")
    return int(told.stdout.split()[-1])


if __name__ == "__main__":  # called by `peak_elsewhere`
    section, name, side, device = sys.argv[1:]
    contests = importlib.import_module(f"scripts.benches.{section}").contests(torch.device(device))
    contest = next(contest for contest in contests if contest.name == name)
    print(peak(getattr(contest, side), torch.device(device)))
