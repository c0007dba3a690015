"""The progress line: step, metrics, images per second, time left."""

import time

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from core.console import plain_console

LABELS = {  # printed in place of keys that would say too little
    "train_bound": "train log C - L (no bound)",
    "in_batch_bound": "in-batch log N - L",
    "information_upper": "I(X; Z) at most",
}
PLAIN_EVERY = 15.0  # seconds between lines if the output is not a terminal


def in_words(metrics: dict[str, float]) -> str:
    """Metrics as one line for a person."""
    return " · ".join(
        f"{LABELS.get(name.removeprefix('val/'), name)} {value:.4g}"
        for name, value in metrics.items()
    )


def duration(seconds: float) -> str:
    """A time as text: "42 s", "3 min 5 s", "2 h 7 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class ProgressLine:
    """A live line on a terminal; elsewhere (a file, a scheduler's log) a plain line every 15 s."""

    def __init__(self, total: int, done: int, batch_size: int, shown: bool):
        self.total, self.first, self.done, self.batch_size = total, done, done, batch_size
        self.started = self.printed = time.monotonic()
        self.console = plain_console(quiet=not shown)
        columns = (
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        live = shown and self.console.is_terminal
        self.live = Progress(*columns, console=self.console) if live else None
        self.task = None
        if self.live:
            self.task = self.live.add_task("", total=total, completed=done, text="")

    def __enter__(self) -> "ProgressLine":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    @property
    def seconds(self) -> float:
        """Seconds since the start; never 0."""
        return max(1e-9, time.monotonic() - self.started)

    @property
    def images_per_second(self) -> float:
        return (self.done - self.first) * self.batch_size / self.seconds

    def advance(self, step: int) -> None:
        """Report that `step` steps are done."""
        self.done = step
        if self.live and self.task is not None:
            self.live.update(self.task, completed=step)

    def show(self, metrics: dict[str, float]) -> None:
        """Show the newest metrics; information in nats."""
        text = f"{in_words(metrics)} · {self.images_per_second:,.0f} images/s"
        if self.live and self.task is not None:
            self.live.update(self.task, text=text)
        elif time.monotonic() - self.printed > PLAIN_EVERY or self.done == self.total:
            self.printed = time.monotonic()
            elapsed = self.printed - self.started
            left = elapsed / max(1, self.done - self.first) * (self.total - self.done)
            self.console.print(f"step {self.done}/{self.total} · {text} · {duration(left)} left")

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self.console.print(line)
