"""Checkpoints that a thread writes while training continues."""

import threading
import time

import pytest
import torch

from core.errors import UserError
from core.run import checkpoint, config
from core.run.folder import RunFolder
from core.run.optim import build_optimizer
from core.run.saver import SaveClock, Saver
from tests.front_door import ROOT
from tests.in_process import train


@pytest.fixture
def run(tmp_path) -> tuple[RunFolder, checkpoint.State]:
    settings = config.read(
        ROOT / "configs/simclr_sprites.yaml",
        [f"folder={tmp_path / 'run'}", "model.hidden=16", "model.projection=8"],
    )
    method = checkpoint.build_method(settings, (3, 32, 32))
    folder = RunFolder(settings.folder)
    folder.create(settings)
    state = checkpoint.State(settings, method, build_optimizer(method, settings.optim))
    next(method.parameters()).grad = torch.ones_like(next(method.parameters()))
    state.optimizer.step()
    return folder, state


def test_later_steps_do_not_change_what_is_being_written(run, monkeypatch):
    folder, state = run
    goes_on, first = threading.Event(), next(state.method.parameters())
    before = first.detach().clone()
    moment = state.optimizer.state[first]
    moments = {name: value.clone() for name, value in moment.items() if name != "step"}
    write = checkpoint.write
    monkeypatch.setattr(checkpoint, "write", lambda *given: [goes_on.wait(), write(*given)])
    state.step = 1
    folder.save(state, 10, best=True, wait=False)
    assert not folder.last.exists()
    with torch.no_grad():
        first += 1.0
        for name in moments:
            moment[name] += 1.0
    state.step = 2
    goes_on.set()
    folder.saver.wait()
    for path in (folder.last, folder.best):
        held = checkpoint.read(path)
        name = next(name for name, _ in state.method.named_parameters())
        assert held["step"] == 1 and torch.equal(held["method"][name], before)
        kept = held["optimizer"]["state"][0]
        assert all(torch.equal(kept[name], value) for name, value in moments.items())


def test_an_error_of_the_thread_reaches_the_run(run):
    folder, state = run
    with torch.no_grad():
        next(state.method.parameters()).view(-1)[0] = float("nan")
    folder.save(state, 10, wait=False)
    while not folder.saver._thread or folder.saver._thread.is_alive():
        time.sleep(0.01)
    with pytest.raises(UserError, match="not finite"):
        folder.saver.check()
    folder.saver.check()  # said once
    assert not folder.last.exists()


def test_jobs_run_one_after_another_and_an_error_is_not_lost():
    saver, done = Saver(), []

    def job(number: int) -> None:
        time.sleep(0.02)
        done.append(number)
        if number == 1:
            raise OSError("full")

    saver.submit(lambda: job(0))
    saver.submit(lambda: job(1))
    assert done == [0]
    with pytest.raises(OSError, match="full"):
        saver.submit(lambda: job(2))
    saver.submit(lambda: job(3))
    saver.wait()
    assert done == [0, 1, 3]


def test_a_clock_asks_once_for_each_time_that_has_passed(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock, never = SaveClock(1.0), SaveClock(0)
    asked = []
    for now[0] in (30.0, 59.0, 60.0, 61.0, 119.0, 120.0):
        asked.append(clock.due())
    assert asked == [False, False, True, False, False, True]
    clock.restart()
    now[0] = 179.0
    assert not clock.due() and not never.due()


def test_a_run_saves_when_its_checkpoint_is_old(tmp_path, monkeypatch):
    """Also between steps of trainer.save_every, and the result is that of a run without a clock."""
    written, write = [], checkpoint.write

    def noted(path, held, keep=1):
        written.append((path.name, held.entries["step"]))
        write(path, held, keep)

    monkeypatch.setattr(checkpoint, "write", noted)
    small = ["model.hidden=16", "model.projection=8", "data.sprites.train=128", "optim.epochs=2"]
    few = ["trainer.validate_every=0", "data.sprites.validation=64", "data.sprites.test=64"]
    states = []
    for minutes in ("0", "1e-9"):
        folder = tmp_path / minutes
        answer = train("simclr", folder, *small, *few, f"trainer.save_minutes={minutes}")
        assert answer.code == 0, answer.err
        states.append(checkpoint.read(folder / "last.ckpt"))
    assert [step for _, step in written] == [0, 5, 8] + list(range(9))
    for name, weight in states[0]["method"].items():
        assert torch.equal(weight, states[1]["method"][name])


def test_a_run_that_waits_for_images_says_so_once(tmp_path, monkeypatch, capsys):
    """After the first minute; a run whose images are in memory never waits."""
    monkeypatch.setattr("core.run.progress.ProgressLine.seconds", 120.0)
    small = ["model.hidden=16", "model.projection=8", "optim.epochs=1"]
    assert train("simclr", tmp_path / "fast", *small).code == 0
    assert "waits for images" not in capsys.readouterr().out
    monkeypatch.setattr("core.data.sprites.Sprites.waited", 60.0)
    answer = train("simclr", tmp_path / "slow", *small)
    assert answer.code == 0 and answer.out.count("the training waits for images 50% of the") == 1
