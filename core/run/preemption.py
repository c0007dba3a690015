"""Stop between two steps when a scheduler takes the machine or a person presses Ctrl-C. On a
CPU, a resumed run then gives the result of an uninterrupted run, bit for bit.
"""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from types import FrameType
from typing import TypeVar

from core.run.agreement import Agreement

# EX_TEMPFAIL of sysexits.h, "try again later". A run that ends for another reason has another code:
# 130 after Ctrl-C, 2 for a mistake of the user, 1 for a defect, 128 + n if it was killed before a
# save. So a scheduler can requeue exactly the runs with this code.
REQUEUE = 75
STOPPED = 128 + signal.SIGINT  # a person's decision, which no scheduler should undo
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

T = TypeVar("T")


def requeue_while_starting() -> None:
    """Make SIGTERM and SIGUSR1 exit with code 75 at once, while there is nothing to save yet."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: sys.exit(REQUEUE))


class Preemption:
    """A context that remembers SIGTERM, SIGUSR1 and SIGINT; `until` then ends the batches after the
    current step or, with several processes, after the next one. A second SIGINT ends the process at
    once. An ignored SIGINT stays ignored, as for background jobs of a script.
    """

    def __init__(self, timeout: timedelta | None = None, due: Callable[[], bool] | None = None):
        """`timeout`: how long processes wait for each other, if there are several. `due` is called
        before every step and says whether it is time to save. If it says so in any process, all
        processes save (`saves`).
        """
        self.heard: signal.Signals | None = None
        self.saves = False  # whether it was time to save before the current step
        self._due = due or (lambda: False)
        self._agreed_on: signal.Signals | None = None
        self._agreement = Agreement(2, timeout)

    def __enter__(self) -> "Preemption":
        ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        heard = [number for number in SIGNALS if number != signal.SIGINT or not ignored]
        self._before = {number: signal.signal(number, self._hear) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def reason(self) -> str:
        """The name of the signal for which all processes have agreed to stop."""
        return self._agreed_on.name if self._agreed_on else ""

    @property
    def exit_code(self) -> int:
        """The exit code of every process: 75 after a scheduler's signal, 130 after Ctrl-C."""
        return STOPPED if self._agreed_on == signal.SIGINT else REQUEUE

    @property
    def stopping(self) -> bool:
        """Whether all processes have agreed to stop."""
        return self._agreed_on is not None

    def until(self, batches: Callable[[int], Iterable[T]]) -> Iterator[T]:
        """The batches, until any process has received a signal. All stop before the same step.

        `batches(n)`: all batches but the first n. A scheduler also signals decoding workers, which
        then die. A run with one process stops at once. In a run with several, a process whose
        workers died starts new ones, because the other processes take one more step.
        """
        taken, remaining = 0, iter(batches(0))
        while True:
            try:
                batch = next(remaining, None)
            except (RuntimeError, OSError, EOFError):
                if self.heard is None:
                    raise
                batch = None
                if not self._agreed():
                    remaining = iter(batches(taken))
                    batch = next(remaining, None)
            else:
                self._agreed()
            if self.stopping or batch is None:
                self._agreement.settle()
                return
            taken += 1
            yield batch

    def _agreed(self) -> bool:
        if self._agreed_on is None:
            # the maximum prefers a scheduler's signal, because SIGINT is the smallest number
            number, saves = self._agreement.ask([int(self.heard or 0), int(self._due())])
            self._agreed_on, self.saves = signal.Signals(number) if number else None, bool(saves)
        return self.stopping

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(number, self._before[signal.SIGINT])
        # otherwise torch would raise an error inside a step if the same signal killed a worker
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
