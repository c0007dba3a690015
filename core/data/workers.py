"""Batches from worker processes. Dead workers are reported. Silent workers are replaced; if the new
ones are silent, too, this is reported.

A worker can fall silent for two reasons. First, a disk may not answer. Second, a lock may never be
freed: a worker is forked from a process with other threads, and a lock that such a thread held
during the fork stays locked in the worker. Workers only read images in the order of a sampler, so
new workers make the same batches. The message about silent workers says where they are stuck.
"""

import contextlib
import gc
import math
import os
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.queues import Queue
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from core.data import stuck
from core.data.notes import printable, say_once
from core.data.skipping import Split
from core.distributed import world
from core.errors import UserError

MAX_WORKERS = 4  # per processor: more workers only wait for each other
AUTOMATIC = 8  # the most workers that start unless the user asks for more
TICK = 5.0  # seconds without a batch after which the workers are checked
# Parts of torch's RuntimeErrors when shared memory or file handles run out.
EXHAUSTED = ("shared memory", "mmap", "Too many open files", "ancdata", "Cannot allocate")


class WorkersLost(UserError, RuntimeError):
    """Decoding workers died or fell silent. Also a RuntimeError, like torch's own error."""


class Unread(Iterable[list[int]]):
    """Lists of indices that a loader takes before it returns their batches. A second loader first
    gets the lists whose batches did not come, then the others.
    """

    def __init__(self, lists: Iterable[list[int]]):
        self._rest, self._taken = iter(lists), deque[list[int]]()

    def __iter__(self) -> Iterator[list[int]]:
        yield from tuple(self._taken)
        for indices in self._rest:
            self._taken.append(indices)
            yield indices

    def came(self) -> None:
        """Call this when a batch has come, so that its list is not read again."""
        self._taken.popleft()


def load(dataset: Split, workers: int, timeout: float = math.inf, **options: Any) -> Iterator[Any]:
    """Batches from a DataLoader. An error of a worker is raised here as one line.

    After `timeout` seconds without a batch, new workers replace the old ones and continue with this
    batch. After another `timeout` seconds without a batch, `WorkersLost` is raised. A dead worker
    is noticed within seconds. torch's global generator is not used. `options`: `batch_size` or
    `batch_sampler`, and other options of the DataLoader.
    """
    workers = sensible(workers)
    if "batch_sampler" not in options:
        in_order: Any = SequentialSampler(dataset)  # type: ignore[arg-type]
        options["batch_sampler"] = BatchSampler(in_order, options.pop("batch_size"), False)
    options["batch_sampler"] = unread = Unread(options["batch_sampler"])
    options |= {"timeout": min(TICK, timeout) if workers else 0, "generator": torch.Generator()}
    batches: Iterator[Any] | None = None
    try:
        batches = _started(dataset, workers, **options)
        fresh = False  # whether the workers have replaced silent ones, and have sent nothing yet
        while True:
            try:
                batch = _next(batches, timeout)
            except TimeoutError:
                if fresh:
                    raise _silent(workers, timeout, _places(batches)) from None
                stand = _places(batches)
                _kill(batches)
                batches = None
                say_once(
                    f"data.timeout: no batch came from {workers} decoding workers in {timeout:g} s"
                    f" {stand}; new workers replace them"
                )
                batches, fresh = _started(dataset, workers, **options), True
                continue
            if batch is None:
                return
            unread.came()
            fresh = False
            yield batch
    except UserError as error:  # a worker's error arrives with its traceback as text
        # torch's frames keep the loader alive, and a loader that is freed late waits 5 s per worker
        traceback.clear_frames(error.__traceback__)
        said = str(error).rstrip().splitlines()[-1].removeprefix("core.errors.UserError: ")
        raise type(error)(said) from None
    except (RuntimeError, OSError, EOFError) as error:
        lost = _lost(error)
        if lost is None:
            raise
        _ignore_deaths()
        traceback.clear_frames(error.__traceback__)
        raise lost from None
    finally:
        if isinstance(sys.exc_info()[1], WorkersLost):
            # torch would wait for each of them, and Python would wait for ever when it exits
            _kill(batches)
        del batches  # end the workers now; a stored error would keep them alive


def _next(batches: Iterator[Any], timeout: float) -> Any:
    """The next batch, or None at the end. `TimeoutError` after `timeout` seconds without one."""
    silent = 0.0
    while True:
        try:
            return next(batches, None)
        except RuntimeError as error:
            if "DataLoader timed out" not in str(error):
                raise
        silent += min(TICK, timeout)
        if silent >= timeout:
            raise TimeoutError
        # torch's iterator is still usable


def _silent(workers: int, timeout: float, stand: str) -> WorkersLost:
    return WorkersLost(
        f"data.timeout: no batch came from {workers} decoding workers in {timeout:g} s, nor from"
        f" new ones in the same time {stand}; check that the disk under data.root answers, or"
        " allow more seconds"
    )


def _places(batches: Iterator[Any]) -> str:
    """Where the workers are stuck, in brackets; each place once."""
    workers = getattr(batches, "_workers", [])
    places = {worker.place() for worker in workers if isinstance(worker, _Forked)}
    return f"({'; '.join(sorted(places)) or 'it is not known where they are stuck'})"


def _kill(batches: Iterator[Any] | None) -> None:
    """Kill the workers of an iterator: a stopped process reacts to no other signal."""
    main = threading.current_thread() is threading.main_thread()
    # torch's handler raises an error
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if main else None
    try:
        for worker in getattr(batches, "_workers", []):
            worker.kill()
            worker.join()
        shutdown = getattr(batches, "_shutdown_workers", None)
        if shutdown is not None:
            shutdown()
    finally:
        if main:
            signal.signal(signal.SIGCHLD, before)


def sensible(workers: int) -> int:
    """The number of workers for `data.workers`: -1 shares the processors among the processes of
    this machine.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpus = affinity or 1
    most = MAX_WORKERS * cpus
    if workers < 0:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 0))  # torchrun's
        here = here or min(world(), torch.cuda.device_count() or world())
        return max(1, min(AUTOMATIC, cpus // here))
    if workers > most:
        say_once(
            f"data.workers: {workers} are more than {MAX_WORKERS} for each of {cpus} processors;"
            f" {most} are used"
        )
    return min(workers, most)


class _Forked(ForkProcess):
    """A forked worker that shares neither generators nor garbage with its parent.

    In a worker, torch first seeds the global generators. If a thread of the parent was drawing from
    such a generator during the fork, the generator's lock stays locked in the worker, which would
    then wait for ever. The worker also never collects the parent's garbage. A fork does not copy
    threads, so the destructor of an object that owns threads would abort the worker or wait for
    ever.
    """

    def start(self) -> None:
        gc.freeze()
        try:
            with stuck.answering(self) as self._answer:
                super().start()
        finally:
            gc.unfreeze()

    def place(self) -> str:
        return stuck.place(self, self._answer)

    def run(self) -> None:
        torch.random.default_generator = torch.Generator()
        np.random.set_bit_generator(np.random.MT19937(0))  # type: ignore[attr-defined]
        super().run()


class _Forks(ForkContext):
    Process = _Forked


def _started(dataset: Split, workers: int, **options: Any) -> Iterator[Any]:
    """The iterator of a DataLoader, with running workers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # see `sensible`
        if workers and sys.platform == "linux":
            options = {"multiprocessing_context": _Forks(), **options}
        batches = iter(DataLoader(dataset, num_workers=workers, worker_init_fn=_prepare, **options))
    if workers and threading.current_thread() is threading.main_thread():
        _translate_deaths()
    return batches


def _prepare(worker: int) -> None:
    """Make a worker end if it can not send a batch. Python would only print a traceback and drop
    the batch, and the training process would wait for it for ever.
    """
    Queue._on_queue_feeder_error = staticmethod(_die)  # type: ignore[attr-defined]


def _die(error: Exception, batch: object) -> None:
    line = f"data.workers: a decoding worker could not send a batch ({printable(error)})\n"
    with contextlib.suppress(OSError):
        os.write(2, line.encode(errors="backslashreplace"))
    os._exit(1)


def _translate_deaths() -> None:
    """Shorten torch's error about a dead worker, which can be raised in the middle of a step."""
    before = signal.getsignal(signal.SIGCHLD)
    if not callable(before) or getattr(before, "translates", False):
        return

    def handler(number: int, frame: FrameType | None) -> None:
        try:
            before(number, frame)
        except RuntimeError as error:
            _ignore_deaths()
            raise _lost(error) or error from None

    handler.translates = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGCHLD, handler)


def _ignore_deaths() -> None:
    """Ignore further deaths of workers, so that the first one can be handled."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _lost(error: Exception) -> WorkersLost | None:
    """The error for workers that died or could not start; None for another error."""
    text = " ".join(str(error).split())
    # a worker that dies while it sends a batch breaks the connection
    broken = isinstance(error, ConnectionError | EOFError | FileNotFoundError)
    if broken or isinstance(error, RuntimeError) and "DataLoader worker" in text:
        reason = "a decoding worker died" if broken else text.split(". ")[0].rstrip(".")
        return WorkersLost(
            f"data.workers: {reason}; if the system kills processes to free memory (the host's or"
            " /dev/shm's), set fewer workers or data.workers=0"
        )
    if isinstance(error, BlockingIOError) or any(words in text for words in EXHAUSTED):
        return WorkersLost(
            f"data.workers: the decoding workers ran out of a resource ({printable(text)}); raise"
            " the limit (ulimit -n, /dev/shm), or set fewer workers or data.workers=0"
        )
    return None
