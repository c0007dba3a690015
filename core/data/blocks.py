"""Process a batch in blocks that fit into the processor's cache, one thread per block.

A torch operation on a whole batch goes through memory, and its threads wait for each other after
each operation. A block stays in the cache for all operations, and its thread seldom waits.
"""

import ctypes
import functools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

# Values of a block, 3 MiB of float32. Smaller blocks need more calls, and then threads wait for
# the interpreter's lock.
BLOCK = 3 * 2**18
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as in glibc's malloc.h
# bytes; 32 MiB is the largest M_MMAP_THRESHOLD that glibc accepts
KEPT = {M_TRIM_THRESHOLD: 2**28, M_MMAP_THRESHOLD: 2**25}


def in_blocks(work: Callable[[slice], None], n: int, values: int, device: torch.device) -> None:
    """Call `work(block)` for slices that together cover n items of about `values` numbers each.

    The slices are strided, so that all blocks cost the same. On a CPU, torch's threads work on
    blocks in parallel, so calls must not write to the same memory. Other devices get one block.
    """
    threads = torch.get_num_threads()
    count = 1 if device.type != "cpu" else threads * math.ceil(n * values / BLOCK / threads)
    blocks = [slice(first, None, count) for first in range(min(count, n))]
    if threads == 1 or len(blocks) == 1:
        for block in blocks:
            work(block)
        return
    inference = torch.is_inference_mode_enabled()  # threads do not inherit it

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
    """Tell malloc to keep freed memory; otherwise the system clears it before each new use.

    Without these options, returning and clearing memory took a fifth of the time. Only glibc has
    them; a user's own MALLOC_* settings take precedence.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt and not any(name.startswith("MALLOC_") for name in os.environ):
        for threshold, size in KEPT.items():
            mallopt(threshold, size)


_keep_memory()
