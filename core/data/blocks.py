"""Work on a batch in blocks that fit into a processor's cache, one block per thread.

An operation of torch on a whole batch reads and writes memory, and its threads meet at the end of
every operation. A block stays in the cache from its first operation to its last, and threads that
work on blocks of their own seldom wait for each other.
"""

import ctypes
import functools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

BLOCK = (
    3 * 2**18
    # values in a block, 3 MiB of floats; of smaller ones there are more calls, and threads wait for
    # the interpreter's lock
)
TRIM, MMAP = -1, -3  # glibc's names of two thresholds, in malloc.h
KEPT = {TRIM: 2**28, MMAP: 2**25}  # bytes; glibc takes no more than 32 MiB for the second


def in_blocks(work: Callable[[slice], None], n: int, values: int, device: torch.device) -> None:
    """Call `work(block)` for strided slices that together cover n items, each of about `values`
    numbers. Slices are strided so that all blocks cost the same.

    On a CPU, as many blocks run in parallel as torch has threads, so each call of `work` must write
    to memory of its own. On other devices there is one block.
    """
    threads = torch.get_num_threads()
    count = 1 if device.type != "cpu" else threads * math.ceil(n * values / BLOCK / threads)
    blocks = [slice(first, None, count) for first in range(min(count, n))]
    if threads == 1 or len(blocks) == 1:
        for block in blocks:
            work(block)
        return
    inference = torch.is_inference_mode_enabled()  # a thread does not inherit it

    def run(block: slice) -> None:
        with torch.inference_mode(inference):
            work(block)

    pool = _pool(threads)
    torch.set_num_threads(1)
    try:
        list(pool.map(run, blocks))
    finally:
        torch.set_num_threads(threads)


@functools.lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "block", lambda: torch.set_num_threads(1))


def _keep_memory() -> None:
    """Let malloc keep what is freed: it gives a block's megabytes back to the system, which clears
    them before it lends them again.

    That cost a fifth of the time. Only glibc has these switches, and who has set them in the
    environment is left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt and not any(name.startswith("MALLOC_") for name in os.environ):
        for threshold, size in KEPT.items():
            mallopt(threshold, size)


_keep_memory()
