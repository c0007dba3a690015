"""What the loop does after a step: what it saves, measures, logs and says, and in which process."""

import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import core.run.loop as module
from core.run.loop import Loop
from core.run.progress import ProgressLine
from core.run.resumable import hindrances

NUMBERS = [0.5, 0.75, 0.75, math.nan, 0.6]


class Notes(list):
    """Stands for a folder and a logger: notes each call as (name, arguments)."""

    data, mode = "sprites", "offline"

    def __bool__(self):
        return True

    def __getattr__(self, name):
        return lambda *given, **named: self.append((name, given, named))

    def named(self, name):
        return [given for called, given, _ in self if called == name]


class Folder(Notes):
    last, best, config = (Path(f"run/{name}") for name in ("last.ckpt", "best.ckpt", "config.yaml"))
    path, pictures = Path("run"), Path("run/pictures")


@pytest.fixture
def made(monkeypatch):
    """A loop at step 4 of 12, 4 steps in an epoch, whose validations give `NUMBERS`."""

    def make(first=True, **trainer):
        known = {"log_every": 1, "save_every": 100, "validate_every": 1, "save_minutes": 5.0}
        run = SimpleNamespace(
            trainer=SimpleNamespace(**known | {"profile": True, "timeout": 77.0} | trainer),
            optim=SimpleNamespace(batch_size=8),
            method="x.Y",
            data=SimpleNamespace(name="sprites"),
        )
        state = SimpleNamespace(run=run, step=4, best=-math.inf, method=torch.nn.Linear(1, 1))
        fabric = SimpleNamespace(
            is_global_zero=first,
            device=torch.device("cpu"),
            broadcast=lambda scores: scores,
            barrier=lambda: None,
        )
        training = SimpleNamespace(
            state=state,
            fabric=fabric,
            total=12,
            steps_per_epoch=4,
            source=SimpleNamespace(waited=0),
        )
        numbers, folder = iter(NUMBERS), Folder()
        folder.saver = Notes()
        validation = Validation(numbers)
        loop = Loop(training, validation, folder, Notes() if first else None)
        monkeypatch.setattr(module.checkpoint, "whole_method", lambda state: state.method)
        said = []
        monkeypatch.setattr(loop.progress, "say", said.append)
        return loop, said

    return make


class Validation:
    """Numbers of which "val/knn" is the criterion; notes at which steps they are asked for."""

    def __init__(self, numbers):
        self.numbers, self.asked, self.warning = numbers, [], ""

    def __call__(self, method, step):
        self.asked.append(step)
        return {"val/other": 9.0, "val/knn": next(self.numbers)}

    def criterion(self, method, scores):
        assert "val/knn" in scores
        return "val/knn"

    def pictures(self, method, folder):
        assert folder == Folder.pictures
        return {"views": folder / "views.png"}


def test_only_the_first_process_profiles_and_looks_at_the_clock(made):
    for first in (True, False):
        loop, _ = made(first)
        assert (loop.profiled is not None) == first == (loop.clock.seconds == 300)
        assert first or loop.clock.seconds == math.inf
    assert made(profile=False)[0].profiled is None


def test_the_best_validation_is_kept_with_its_own_step_and_numbers(made):
    """An equal value and NaN are not better."""
    loop, said = made()
    loop.validation.warning = "take care"
    better = []
    for step in range(5, 5 + len(NUMBERS)):
        loop.state.step = step
        better.append(loop._validate())
    assert better == [True, True, False, False, False] and loop.state.best == 0.75
    named = [{"best/sprites/step": step, "best/sprites/other": 9.0, "best/sprites/knn": value}
             for step, value in ((5, 0.5), (6, 0.75))]  # fmt: skip
    assert loop.logger.named("summary") == [(one,) for one in named]
    assert loop.validation.asked == [5, 6, 7, 8, 9]
    assert [given[1] for given in loop.logger.named("pictures")] == [5, 6, 7, 8, 9]
    assert [given[1] for given in loop.logger.named("metrics")] == [5, 6, 7, 8, 9]
    lines = loop.folder.named("append_metrics")
    assert lines[1][0] == {"step": 6, "epoch": 1.5, "val/other": 9.0, "val/knn": 0.75}
    assert said.count("warning: take care") == 5 and "step 6/12 validation" in said[2]


def test_a_run_begins_with_pictures_and_without_a_validation(made, monkeypatch):
    monkeypatch.setattr(module, "banner", lambda *words: "banner")
    monkeypatch.setattr(module, "trained_longer", lambda training: "longer")
    loop, said = made()
    loop.begin()
    assert said == ["banner", "longer"] and loop.validation.asked == []
    assert loop.logger.named("pictures")[0][1] == 4 and loop.folder == []  # a resumed run
    loop.state.step = 0
    loop.begin()
    assert loop.folder.named("save") == [(loop.state, 4)]


@pytest.mark.parametrize(("step", "timely"), [(7, False), (7, True), (8, False), (12, False)])
def test_what_is_due_is_saved_and_only_a_save_restarts_the_clock(made, step, timely):
    loop, _ = made()
    restarted = []
    loop.clock.restart = lambda: restarted.append(step)
    loop.state.step = step
    loop._after({"loss": torch.tensor(2.0)}, timely)
    saves, validates = timely or step == 12, step % 4 == 0
    assert bool(restarted) == saves and loop.validation.asked == [step] * validates
    assert [(given, named) for name, given, named in loop.folder if name == "save"] == (
        [((loop.state, 4, saves, validates), {"wait": False})] if saves or validates else []
    )
    logged = loop.logger.named("metrics")[0]
    assert logged[0]["loss"] == 2.0 and logged[0]["images_per_s"] > 0 and logged[1] == step


def test_a_signal_saves_and_does_not_wait_long_for_the_logger(made):
    loop, said = made()
    with pytest.raises(SystemExit) as end:
        loop._stop(SimpleNamespace(reason="SIGUSR1", exit_code=75))
    assert end.value.code == 75 and loop.folder.named("save") == [(loop.state, 4)]
    assert ("close", (), {"patience": 5}) in loop.logger
    assert said == ["SIGUSR1: saved run/last.ckpt at step 4; --resume continues; exit code 75"]


def test_training_continues_at_its_step_with_the_limits_of_the_config(made, monkeypatch):
    """A resumed run takes the remaining batches; the signals' context gets the timeout and the
    clock.
    """
    loop, said = made()
    asked, given = [], {}
    loop.training.batches = lambda *steps: asked.append(steps) or iter(())
    loop.training.model = loop.training.optimizer = None

    class Signals:
        stopping, saves = False, False

        def __init__(self, *words):
            given["signals"] = words

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def until(self, batches):
            batches(0)
            return batches(3)

    monkeypatch.setattr(module, "Preemption", Signals)
    monkeypatch.setattr(module, "Profile", lambda place: nullcontext(given.update(place=place)))

    def train(fabric, model, optimizer, state, batches, total, steps_per_epoch):
        given["steps"] = (total, steps_per_epoch)
        list(batches)
        return iter(())

    monkeypatch.setattr(module, "train", train)
    loop.to_the_end()
    assert asked == [(4, 12), (7, 12)] and given["steps"] == (12, 4)
    limit, due = given["signals"]
    assert limit.total_seconds() == 77 and due == loop.clock.due
    assert given["place"] == Path("run/profile") and loop.folder.saver.named("wait")
    (artifact,) = loop.logger.named("artifact")
    assert artifact == ("run", "model", (Folder.last, Folder.best, Folder.config))
    assert loop.logger.named("close") == [()] and "done: run/last.ckpt at step 4" in said[-1]


def test_a_run_that_waits_for_images_says_so_after_a_minute_and_once(made):
    loop, said = made()
    for seconds, waited in ((59.0, 40.0), (61.0, 15.0), (61.0, 20.0), (80.0, 60.0)):
        loop.progress.started = module.ProgressLine(1, 0, 1, False).started - seconds
        loop.training.source.waited = waited
        loop._say_if_starved()
    (line,) = said
    assert "the training waits for images 33% of the time" in line


def test_a_resumed_run_counts_its_own_steps(monkeypatch, capsys):
    """Speed and time left are of the steps since the start of this process."""
    now = [1000.0]
    monkeypatch.setattr("core.run.progress.time.monotonic", lambda: now[0])
    line = ProgressLine(total=100, done=40, batch_size=8, shown=True)
    now[0] += 20
    line.advance(50)
    assert line.images_per_second == 4.0
    line.show({"loss": 1.0})
    assert "step 50/100 · loss 1 · 4 images/s · 1 min 40 s left" in capsys.readouterr().out
    now[0] += 15  # not more than the interval between two lines
    line.advance(60)
    line.show({"loss": 1.0})
    assert not capsys.readouterr().out
    line.advance(100)  # the last line is always printed
    line.show({"loss": 1.0})
    assert "step 100/100" in capsys.readouterr().out


def test_only_a_resumed_run_may_become_longer_and_none_shorter():
    held = {"seed": 0, "optim": {"epochs": 4, "lr": 0.1}, "wandb": {"mode": "auto"}}
    held |= {"trainer": {"devices": "1", "precision": "32"}, "folder": "a", "data": {"root": "a"}}

    def asked(resume, **changed):
        wanted = held | {key: held.get(key, {}) | value for key, value in changed.items()}
        return hindrances(held, wanted | {"folder": "b"}, resume)

    longer, shorter = {"epochs": 5}, {"epochs": 3}
    assert asked(True, optim=longer) == {} == asked(True)
    assert asked(False, optim=longer) == {"optim.epochs": (4, 5)}
    assert asked(True, optim=shorter) == {"optim.epochs": (4, 3)}
    assert asked(True, optim={"epochs": "5"}) == {"optim.epochs": (4, "5")}
    assert asked(True, optim={"lr": 0.2}) == {"optim.lr": (0.1, 0.2)}
    assert asked(False, trainer={"devices": "8"}, wandb={"mode": "off"}, data={"root": "b"}) == {}
    assert asked(False, trainer={"precision": "64"}) == {"trainer.precision": ("32", "64")}
