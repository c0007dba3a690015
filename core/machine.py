"""The speed of this machine, and how busy other programs keep it. A reader needs both to judge a
measured time.
"""

import os
import time
from pathlib import Path

import torch

QUIET = 0.05  # a machine is quiet if other work uses less than this share of the processors


def gigaflops(side: int = 1024, seconds: float = 0.3) -> float:
    """GFLOP/s of torch's float32 matrix products [side, side]: the best result within `seconds`."""
    a = torch.randn(side, side)
    ends, best = time.perf_counter() + seconds, 0.0
    while time.perf_counter() < ends:
        began = time.perf_counter()
        torch.mm(a, a)
        best = max(best, 2 * side**3 / (time.perf_counter() - began) / 1e9)
    return best


def busy(seconds: float = 0.5) -> float | None:
    """The share of all processors that other work uses while this process sleeps for `seconds`;
    None where the system does not say (/proc/stat). If this is a virtual machine, time that the
    host gives to other virtual machines counts as used.
    """
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    if before is None or after is None or after[1] <= before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])


def in_words() -> str:
    """The speed and the other work, such as "183 GFLOP/s, quiet"."""
    share = busy()
    if share is None:
        state = f"load {os.getloadavg()[0]:.1f}"
    elif share < QUIET:
        state = "quiet"
    else:
        state = (
            f"NOT quiet: other work uses {share:.0%} of the processors; compare ratios, not times"
        )
    return f"{gigaflops():.0f} GFLOP/s, {state}"


def _ticks() -> tuple[int, int] | None:
    """The used ticks and all ticks of the processors since the start of the system."""
    try:
        numbers = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        idle = numbers[3] + numbers[4]  # idle, and waiting for a disk
    except (OSError, ValueError, IndexError):
        return None
    return sum(numbers) - idle, sum(numbers)
