"""A run that gets a signal to stop: the current step is finished, and all processes end in the same
way.
"""

import os
import signal

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from core.run.preemption import REQUEUE, Preemption


@pytest.fixture
def in_the_foreground():
    """Do not ignore Ctrl-C, even if a script runs the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_the_batches_after_the_current_step(number, in_the_foreground):
    before, done = signal.getsignal(number), []
    with Preemption() as preemption:
        for step in preemption.until(range(10)):
            if step == 4:
                os.kill(os.getpid(), number)
            done.append(step)
    assert done == [0, 1, 2, 3, 4] and preemption.stopping and preemption.reason == number.name
    assert preemption.exit_code == (130 if number == signal.SIGINT else REQUEUE)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(
    "here, there, code", [(None, 2, 130), (2, 0, 130), (2, 15, REQUEUE), (None, 10, REQUEUE)]
)
def test_all_processes_end_with_one_exit_code_whichever_got_the_signal(
    here, there, code, monkeypatch
):
    monkeypatch.setattr(dist, "all_reduce", lambda number, how, group: number.clamp_(min=there))
    preemption = Preemption()
    preemption._group, preemption.heard = object(), here and signal.Signals(here)
    assert list(preemption.until(range(10))) == [] and preemption.stopping
    assert (
        preemption.exit_code == code
        and preemption.reason == signal.Signals(max(here or 0, there)).name
    )


def test_a_job_in_the_background_ignores_ctrl_c(in_the_foreground):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Preemption() as preemption:
        for _ in preemption.until(range(3)):
            os.kill(os.getpid(), signal.SIGINT)
    assert not preemption.stopping and signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_a_second_interruption_does_not_wait(in_the_foreground):
    done = []
    with pytest.raises(KeyboardInterrupt), Preemption() as preemption:
        for step in preemption.until(range(10)):
            os.kill(os.getpid(), signal.SIGINT)
            done.append(step)
            os.kill(os.getpid(), signal.SIGINT)
    assert done == [0] and signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_workers_that_die_of_the_same_signal_do_not_spoil_the_end():
    before = signal.getsignal(signal.SIGCHLD)
    loader, done = DataLoader(torch.arange(1000), num_workers=1, generator=torch.Generator()), []
    with Preemption() as preemption:
        batches = iter(loader)
        for batch in preemption.until(batches):
            done.append(int(batch))
            if len(done) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
                batches._workers[0].terminate()
    assert done == [0, 1, 2] and preemption.stopping
    signal.signal(signal.SIGCHLD, before)
