"""A scheduler's warning that it will take the machine, or a person's Ctrl-C: the step under way is
finished, and the run ends where it can go on bitwise.

W = processes.
"""

import signal
import sys
from collections.abc import Iterable, Iterator
from datetime import timedelta
from types import FrameType, TracebackType
from typing import TypeVar

import torch
import torch.distributed as dist

from core.distributed import world

# EX_TEMPFAIL of sysexits.h, "try again later": no other end of a run has this code (2 is a mistake
# to mend, 1 a defect, 128 + n a kill before anything could be saved), so that a scheduler can be
# told to requeue exactly this one.
REQUEUE = 75
STOPPED = 128 + signal.SIGINT  # a person's wish, which no scheduler should undo
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

T = TypeVar("T")


def requeue_while_starting() -> None:
    """Until `Preemption` listens there is nothing to save, so SIGTERM and SIGUSR1 end the process
    at once, as what a scheduler requeues.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: sys.exit(REQUEUE))


class Preemption:
    """As a context, hears SIGTERM, SIGUSR1 and SIGINT and remembers them; `until` then ends the
    batches after the step under way.

    A second SIGINT does not wait for that. Where SIGINT is ignored it stays so: to a script's job
    in the background Ctrl-C is not meant.
    """

    def __init__(self, timeout: timedelta | None = None):
        """`timeout`: how long processes wait for one another, where there are several."""
        self.heard: signal.Signals | None = None
        self._agreed_on: signal.Signals | None = None
        # A group of its own, on the host: agreeing must not wait for a device that is still busy
        # with the step.
        self._group = dist.new_group(backend="gloo", timeout=timeout) if world() > 1 else None

    def __enter__(self) -> "Preemption":
        heard = [
            number
            for number in SIGNALS
            if number != signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN
        ]
        self._before = {number: signal.signal(number, self._hear) for number in heard}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def reason(self) -> str:
        """The name of the signal that every process has agreed to stop for."""
        return self._agreed_on.name if self._agreed_on else ""

    @property
    def exit_code(self) -> int:
        """What every process should end with: 75 for a scheduler's signal, 130 for Ctrl-C."""
        return STOPPED if self._agreed_on == signal.SIGINT else REQUEUE

    @property
    def stopping(self) -> bool:
        """Whether every process has agreed to stop."""
        return self._agreed_on is not None

    def until(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, until a signal has come to any process: all of them stop before the same
        step.

        A scheduler signals decoding workers too, and they die of it: the batch that they owe is
        then not waited for.
        """
        remaining = iter(batches)
        while True:
            try:
                batch = next(remaining, None)
            except (RuntimeError, OSError, EOFError):
                if self.heard is None:
                    raise
                batch = None
            if self._agreed() or batch is None:
                return
            yield batch

    def _agreed(self) -> bool:
        if self._agreed_on is None:
            number = torch.tensor(int(self.heard or 0))
            if self._group is not None:
                dist.all_reduce(
                    number, dist.ReduceOp.MAX, group=self._group
                )  # of several, a scheduler's: SIGINT is the least
            self._agreed_on = signal.Signals(int(number)) if number else None
        return self.stopping

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(number, self._before[signal.SIGINT])
        signal.signal(
            signal.SIGCHLD, signal.SIG_DFL
        )  # else torch raises in the middle of a step when a worker dies of the same signal
