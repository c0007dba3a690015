"""How fast this machine multiplies: a time says little without it."""

import time

import torch


def gigaflops(side: int = 1024, seconds: float = 0.3) -> float:
    """GFLOP/s of products of float32 matrices [side, side], with the threads that torch uses: the
    best of the products that fit into so many seconds.
    """
    a = torch.randn(side, side)
    ends, best = time.perf_counter() + seconds, 0.0
    while time.perf_counter() < ends:
        began = time.perf_counter()
        torch.mm(a, a)
        best = max(best, 2 * side**3 / (time.perf_counter() - began) / 1e9)
    return best
