"""Wait for processes as long as they make progress, even on a slow machine."""

import os
import time
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path

SPENT = 300.0 * (os.cpu_count() or 1)  # seconds of CPU time: five minutes of every core
IDLE = 900.0  # seconds of wall time in which almost no CPU time was used
NEXT_TO_NONE = 0.01 * IDLE


class Patience:
    """Decides whether to stop waiting for some processes.

    Some machines are more than ten times as fast as others, so a limit in seconds would stop a slow
    run. `sign()` returns a sign of progress, such as the newest step: processes that change it make
    progress. Waiting ends after `SPENT` seconds of CPU time without a change of the sign, or after
    `IDLE` seconds in which the processes used almost no CPU time.
    """

    def __init__(self, processes: Iterable[BaseProcess], sign: Callable[[], object]):
        self._processes, self._sign = list(processes), sign
        self._seen, self._since = sign(), time.monotonic()
        self._cpu_before = self._cpu_since = self._cpu()

    def is_over(self) -> bool:
        sign, now, cpu = self._sign(), time.monotonic(), self._cpu()
        if sign != self._seen:
            self._seen, self._since, self._cpu_before, self._cpu_since = sign, now, cpu, cpu
        elif now - self._since > IDLE:
            if cpu - self._cpu_since < NEXT_TO_NONE:
                return True
            self._since, self._cpu_since = now, cpu
        return cpu - self._cpu_before > SPENT

    def _cpu(self) -> float:
        return sum(cpu_seconds(process.pid or 0) for process in self._processes)


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process and its dead children have used; 0 if unknown (not Linux)."""
    try:
        # utime, stime, cutime, cstime (proc(5)); the name before them may hold spaces
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
    except OSError:
        return 0.0
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def stamp(path: Path) -> int:
    """When a file was last written, 0 if it does not exist: a sign of progress."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
