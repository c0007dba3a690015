"""We wait for a process as long as it makes progress. The waiting ends if the process computes or
sleeps without progress.
"""

import multiprocessing
import os
import sys
import time
from pathlib import Path

import pytest

from scripts import patience
from scripts.patience import Patience, cpu_seconds, stamp

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


class Clock:
    """A machine whose wall time and CPU time are set by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = self.cpu = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(patience, "cpu_seconds", lambda pid: self.cpu)
        self.step = 0
        self.patience = Patience([multiprocessing.Process()], lambda: self.step)

    def after(self, seconds: float, cpu: float, steps: int = 0) -> bool:
        """Whether waiting is over, after so much time since the last check."""
        self.now, self.cpu, self.step = self.now + seconds, self.cpu + cpu, self.step + steps
        return self.patience.is_over()


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def test_a_step_an_hour_is_progress(clock):
    assert not any(clock.after(3600, cpu, steps=1) for cpu in (0, 3600, 0, 7200))


def test_a_process_that_starves_is_waited_for(clock):
    """On a busy machine it may get a fiftieth of a core, so an import takes an hour."""
    assert not any(clock.after(60, 1.2) for _ in range(60))


def test_waiting_for_a_spinning_process_ends_by_its_cpu_time(clock):
    assert not clock.after(1, patience.SPENT - 1)
    assert clock.after(1, 2)
    assert not clock.after(1, 0, steps=1), "waiting starts again after a step"
    assert not clock.after(1, patience.SPENT - 1)


def test_waiting_for_a_sleeping_process_ends_by_wall_time(clock):
    looks = [clock.after(60, 0.01) for _ in range(20)]
    assert looks.index(True) == patience.IDLE // 60


def spin(seconds: float) -> None:
    while time.process_time() < seconds:
        pass
    time.sleep(60)


@linux
def test_cpu_seconds_are_those_of_the_process():
    process = multiprocessing.get_context("fork").Process(target=spin, args=(0.3,))
    process.start()
    while (spent := cpu_seconds(process.pid)) < 0.25:
        assert process.is_alive()
        time.sleep(0.01)
    assert spent < 5 and cpu_seconds(os.getpid()) > 0
    process.kill()
    process.join()
    assert cpu_seconds(process.pid) == 0.0


def test_a_file_that_is_not_there_has_no_stamp(tmp_path: Path):
    assert stamp(tmp_path / "none") == 0
    (tmp_path / "there").touch()
    assert stamp(tmp_path / "there") > 0
