"""A thread that writes checkpoints while training continues, and a clock that says when to save."""

import math
import threading
import time
from collections.abc import Callable


class Saver:
    """Runs one job at a time on a thread of its own.

    An error of a job is raised in the thread that submits, checks or waits.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Wait for the job before this one, then start this one."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), name="saver")
        self._thread.start()

    def check(self) -> None:
        """Raise the error of a job that has failed; does not wait for a running one."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Wait for the running job, and raise its error."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # `wait` raises it
            self._error = error


class SaveClock:
    """Says when the last save is some minutes old."""

    def __init__(self, minutes: float):
        """`minutes`: 0 means never."""
        self.seconds = 60 * minutes or math.inf
        self.restart()

    def restart(self) -> None:
        """Measure from now on."""
        self._since = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to save. If so, the clock restarts, because the save may come a step
        later.
        """
        if time.monotonic() - self._since < self.seconds:
            return False
        self.restart()
        return True
