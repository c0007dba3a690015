"""The speed of this machine, which a reader needs to interpret a time."""

import time

import torch


def gigaflops(side: int = 1024, seconds: float = 0.3) -> float:
    """GFLOP/s of torch's float32 matrix products [side, side]: the best result within `seconds`."""
    a = torch.randn(side, side)
    ends, best = time.perf_counter() + seconds, 0.0
    while time.perf_counter() < ends:
        began = time.perf_counter()
        torch.mm(a, a)
        best = max(best, 2 * side**3 / (time.perf_counter() - began) / 1e9)
    return best
