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
from tests.front_door import run_in_processes


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
        for step in preemption.until(lambda taken: range(taken, 10)):
            if step == 4:
                os.kill(os.getpid(), number)
            done.append(step)
    assert done == [0, 1, 2, 3, 4] and preemption.stopping and preemption.reason == number.name
    assert preemption.exit_code == (130 if number == signal.SIGINT else REQUEUE)
    assert signal.getsignal(number) == before


class Peers:
    """Stands for a group in which another process always asks with one number."""

    def __init__(self, there: int, monkeypatch: pytest.MonkeyPatch):
        self.there = there
        monkeypatch.setattr(dist, "all_reduce", self.reduce)

    def reduce(self, numbers, how, group, async_op):
        assert how == dist.ReduceOp.MAX and async_op
        numbers[0].clamp_(min=self.there)
        return self

    def wait(self) -> None:
        pass


@pytest.mark.parametrize(
    "here, there, code", [(None, 2, 130), (2, 0, 130), (2, 15, REQUEUE), (None, 10, REQUEUE)]
)
def test_all_processes_end_with_one_exit_code_whichever_got_the_signal(
    here, there, code, monkeypatch
):
    preemption = Preemption()
    preemption._agreement._group = Peers(there, monkeypatch)
    preemption.heard = here and signal.Signals(here)
    batches = list(preemption.until(lambda taken: range(taken, 10)))
    assert batches == [0] and preemption.stopping  # the answer comes a step later
    assert (
        preemption.exit_code == code
        and preemption.reason == signal.Signals(max(here or 0, there)).name
    )


def test_one_of_several_processes_takes_the_last_step_with_new_workers(monkeypatch):
    """Its workers die of the signal, but the other processes take one more step."""
    preemption, started = Preemption(), []
    preemption._agreement._group = Peers(0, monkeypatch)

    def batches(taken: int):
        started.append(taken)
        for number in range(taken, 10):
            if number == 4 and taken == 0:
                preemption.heard = signal.SIGTERM
                raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")
            yield number

    assert list(preemption.until(batches)) == [0, 1, 2, 3, 4]
    assert preemption.stopping and started == [0, 4]


def steps_of(number: int, folder: str) -> None:
    """Process 1 hears a signal in its step 3, and process 0's clock is due in its step 1."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    taken: list[tuple[int, bool]] = []
    with Preemption(due=lambda: (number, len(taken)) == (0, 2)) as preemption:
        for step in preemption.until(lambda taken: range(taken, 10)):
            taken.append((step, preemption.saves))
            if (number, step) == (1, 3):
                os.kill(os.getpid(), signal.SIGTERM)
    assert preemption.reason == "SIGTERM"
    torch.save(taken, f"{folder}/{number}.pt")
    dist.destroy_process_group()


def test_two_processes_stop_before_one_step_and_save_after_one_step(tmp_path):
    run_in_processes(steps_of, 2, str(tmp_path))
    taken = [torch.load(tmp_path / f"{number}.pt") for number in (0, 1)]
    assert taken[0] == taken[1] == [(step, step == 3) for step in range(5)]


def test_a_job_in_the_background_ignores_ctrl_c(in_the_foreground):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Preemption() as preemption:
        for _ in preemption.until(lambda taken: range(taken, 3)):
            os.kill(os.getpid(), signal.SIGINT)
    assert not preemption.stopping and signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_a_second_interruption_does_not_wait(in_the_foreground):
    done = []
    with pytest.raises(KeyboardInterrupt), Preemption() as preemption:
        for step in preemption.until(lambda taken: range(taken, 10)):
            os.kill(os.getpid(), signal.SIGINT)
            done.append(step)
            os.kill(os.getpid(), signal.SIGINT)
    assert done == [0] and signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_workers_that_die_of_the_same_signal_do_not_spoil_the_end():
    before = signal.getsignal(signal.SIGCHLD)
    loader, done = DataLoader(torch.arange(1000), num_workers=1, generator=torch.Generator()), []
    with Preemption() as preemption:
        batches = iter(loader)
        for batch in preemption.until(lambda taken: batches):
            done.append(int(batch))
            if len(done) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
                batches._workers[0].terminate()
    assert done == [0, 1, 2] and preemption.stopping
    signal.signal(signal.SIGCHLD, before)
