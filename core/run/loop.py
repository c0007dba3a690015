"""The loop of a run from its present step to its end: steps, logs, validations, checkpoints."""

import shlex
from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

import torch
from torch import Tensor

from core import trust
from core.batch import Batch
from core.commands import command
from core.distributed import mean_over_ranks
from core.method import Method
from core.run import checkpoint
from core.run.finite import FiniteLosses
from core.run.folder import RunFolder
from core.run.logger import Logger
from core.run.optim import warmup_cosine
from core.run.preemption import Preemption
from core.run.profile import Profile
from core.run.progress import ProgressLine, in_words
from core.run.saver import SaveClock
from core.run.setup import Training
from core.run.train import train
from core.run.validation import Validation

# if training waits for images for more than this share of the time, a message says so
STARVED = 0.25


class Due(NamedTuple):
    """What must be done after a step."""

    logs: bool
    validates: bool
    saves: bool


def banner(training: Training, folder: RunFolder, logging: str) -> str:
    """One line: method, device, data, steps, folder, logging."""
    run, fabric = training.state.run, training.fabric
    trained = sum(p.numel() for p in training.state.method.parameters() if p.requires_grad)
    shape, n = "x".join(map(str, training.source.shape)), len(training.source)
    return " · ".join(
        [
            f"{run.method.rpartition('.')[2]} with {trained:,} trained parameters",
            f"{fabric.world_size} x {fabric.device.type}, {run.trainer.precision}",
            f"{n:,} images of {shape}, {run.optim.batch_size} per step",
            f"{training.total:,} steps in {run.optim.epochs} epochs",
            f"folder {folder.path}",
            f"W&B {logging}",
        ]
    )


def trained_longer(training: Training) -> str:
    """What changes if a run is resumed with more epochs; empty for any other run."""
    state, optim = training.state, training.state.run.optim
    before, steps = state.epochs_before, training.steps_per_epoch
    if not 0 < before < optim.epochs:
        return ""
    warmup = optim.warmup_epochs * steps
    old, new = (
        optim.scaled_lr * warmup_cosine(state.step, warmup, epochs * steps)
        for epochs in (before, optim.epochs)
    )
    return (
        f"trains longer: {optim.epochs} epochs instead of {before}. From step {state.step} all"
        f" schedules follow the new length: the learning rate is {new:.3g} and would have been"
        f" {old:.3g}, so the result is not that of one run of {optim.epochs} epochs"
    )


class Loop:
    """The training loop of one process. Only the first process has a `logger`, and only it writes
    files.
    """

    def __init__(
        self,
        training: Training,
        validation: Validation,
        folder: RunFolder,
        logger: Logger | None,
    ):
        self.training, self.validation = training, validation
        self.folder, self.logger = folder, logger
        run, self.state = training.state.run, training.state
        self.losses = FiniteLosses(folder.last)
        first = training.fabric.is_global_zero
        self.progress = ProgressLine(
            training.total, self.state.step, run.optim.batch_size, shown=first
        )
        self.starved = False  # whether the message that training waits for images was printed
        self.clock = SaveClock(run.trainer.save_minutes if first else 0)
        self.profiled = folder.path / "profile" if run.trainer.profile and first else None

    def begin(self) -> None:
        """Print the banner, save the first pictures and, for a new run, its first checkpoint."""
        if self.logger:
            self.progress.say(banner(self.training, self.folder, self.logger.mode))
            if said := trained_longer(self.training):
                self.progress.say(said)
        self._observe(scored=False)
        if self.state.step == 0:
            self.folder.save(self.state, self.training.steps_per_epoch)

    def to_the_end(self) -> None:
        """Take all remaining steps; after a signal, save the run and exit."""
        training, state = self.training, self.state
        limit, first = timedelta(seconds=state.run.trainer.timeout), state.step

        def batches(taken: int) -> Iterator[Batch]:
            return training.batches(first + taken, training.total)

        preemption = Preemption(limit, self.clock.due)
        with preemption, self.progress, Profile(self.profiled) as profile:
            for metrics in train(
                training.fabric,
                training.model,
                training.optimizer,
                state,
                preemption.until(batches),
                training.total,
                training.steps_per_epoch,
            ):
                self._profile(profile)
                self._after(metrics, preemption.saves)
            if preemption.stopping and state.step < training.total:
                self._stop(preemption)
        self.folder.saver.wait()
        training.fabric.barrier()
        if self.logger:
            files = (self.folder.last, self.folder.best, self.folder.config)
            self.logger.artifact(self.folder.path.resolve().name, "model", files)
            self.logger.close()
            self.progress.say(
                f"done: {self.folder.last} at step {state.step}; next: {command('probe')}"
                f" {shlex.quote(str(self.folder.path))}"
                f"{trust.option_for(state.run.method, state.run.data.name)}"
            )

    def _due(self, step: int, timely: bool) -> Due:
        trainer, last = self.state.run.trainer, step == self.training.total
        epochs = trainer.validate_every * self.training.steps_per_epoch
        return Due(
            logs=step % trainer.log_every == 0 or last,
            validates=bool(epochs) and (step % epochs == 0 or last),
            saves=step % trainer.save_every == 0 or last or timely,
        )

    def _after(self, metrics: dict[str, Tensor], timely: bool) -> None:
        """Do what is due after a step with these metrics. `timely`: the last save is too old."""
        step, fabric = self.state.step, self.training.fabric
        self.losses.add(step, metrics)
        self.progress.advance(step)
        due = self._due(step, timely)
        if not any(due):
            return
        self.folder.saver.check()
        values = mean_over_ranks(self.losses.look(), fabric.device)
        if due.logs and self.logger:
            self._say_if_starved()
            self.progress.show(values)
            self._write(values)
            self.logger.metrics({**values, "images_per_s": self.progress.images_per_second}, step)
        best = due.validates and self._validate()
        if due.saves:
            self.clock.restart()
        if due.saves or best:
            self.folder.save(self.state, self.training.steps_per_epoch, due.saves, best, wait=False)

    def _validate(self) -> bool:
        """Validate the method. Returns whether it is better than at all earlier validations."""
        state, scores = self.state, self._observe()
        if self.logger:
            self._write(scores)
            self.logger.metrics(scores, state.step)
            self.progress.say(
                f"step {state.step}/{self.training.total} validation · {in_words(scores)}"
            )
            if self.validation.warning:
                self.progress.say(f"warning: {self.validation.warning}")
        score = scores[self.validation.criterion(state.method, scores)]
        if not score > state.best:  # also if it is NaN
            return False
        state.best = score
        if self.logger:
            at = {"step": state.step, **scores}
            named = {f"best/{self.logger.data}/{k.removeprefix('val/')}": at[k] for k in at}
            self.logger.summary(named)
        return True

    def _observe(self, scored: bool = True) -> dict[str, float]:
        """Save pictures and, if `scored`, validate. All processes must call it."""
        # with sharded weights this is a copy, which is freed at the end of this function
        method = checkpoint.whole_method(self.state)
        # compiling for other batch sizes and modes would take longer than it saves
        with torch.compiler.set_stance("force_eager"):
            scores = self._scores(method) if scored else {}
            if self.logger:
                pictures = self.validation.pictures(method, self.folder.pictures)
                self.logger.pictures(pictures, self.state.step)
        return scores

    def _scores(self, method: Method) -> dict[str, float]:
        return self.training.fabric.broadcast(self.validation(method, self.state.step))

    def _say_if_starved(self) -> None:
        """Say once, after the first minute, if training waits for images that workers decode."""
        minutes, source = self.progress.seconds / 60, self.training.source
        if self.starved or minutes < 1:
            return
        share = source.waited / self.progress.seconds
        self.starved = share > STARVED
        if self.starved:
            self.progress.say(
                f"the training waits for images {share:.0%} of the time; it is faster with more"
                " workers (data.workers), a smaller copy of the pictures, or all images in memory"
                " (data.memory)"
            )

    def _write(self, values: dict[str, float]) -> None:
        step = self.state.step
        epoch = step / self.training.steps_per_epoch
        self.folder.append_metrics({"step": step, "epoch": epoch, **values})

    def _profile(self, profile: Profile) -> None:
        if account := profile.step():
            self.progress.say(
                f"{account}written to {self.profiled}, with trace.json for a browser's tracing page"
            )

    def _stop(self, preemption: Preemption) -> None:
        self.losses.look()
        self.folder.save(self.state, self.training.steps_per_epoch)
        if self.logger:
            self.progress.say(
                f"{preemption.reason}: saved {self.folder.last} at step {self.state.step};"
                f" --resume continues; exit code {preemption.exit_code}"
            )
            self.logger.close(patience=5)
        # a launcher kills all processes when one ends, and the first is still saving
        self.training.fabric.barrier()
        raise SystemExit(preemption.exit_code)
