"""A profile of a few steps: a trace for a browser, and one page of text with the times."""

import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from core.files import write_atomically
from core.run.folder import make_folder

PHASES = ("views", "forward", "backward", "optimizer", "after_step")  # as in core.run.train
FIRST, STEPS = 5, 20  # steps for warming up, and profiled steps
OPERATIONS = 15


class Profile:
    """Profiles STEPS steps after FIRST steps of warm-up, and writes the results into `folder`.
    Without a folder it does nothing.
    """

    def __init__(self, folder: Path | None):
        self.folder, self.seen, self.account = folder, 0, ""
        self.running: profile | None = None

    def step(self) -> str:
        """Call this after every step. It returns the account after the last profiled step, and
        an empty text otherwise.
        """
        self.seen += 1
        if self.folder and self.seen == FIRST:
            activities = [ProfilerActivity.CPU]
            activities += [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self.running, self.started = profile(activities=activities), time.perf_counter()
            self.running.__enter__()
        if self.running and self.seen == FIRST + STEPS:
            return self._write()
        return ""

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *details: Any) -> None:
        if self.running:
            self.running.__exit__(*details)

    def _write(self) -> str:
        assert self.folder and self.running
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        step = (time.perf_counter() - self.started) / STEPS
        done, self.running = self.running, None
        done.__exit__(None, None, None)
        account = describe(done, step)
        make_folder(self.folder, "trainer.profile", "remove the file of that name")
        trace, text = self.folder / "trace.json", self.folder / "account.txt"
        write_atomically(trace, lambda temporary: done.export_chrome_trace(str(temporary)))
        write_atomically(text, lambda temporary: temporary.write_text(account, "utf-8"))
        return account


def describe(done: profile, step: float) -> str:
    """The account: time per step of each phase and of the slowest operations."""
    averages = {event.key: event for event in done.key_averages()}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lines = [
        f"{STEPS} steps after the first {FIRST}, {device}: {1e3 * step:.2f} ms a step, with the"
        " profiler on",
        "",
        "phase         ms a step  share",
    ]
    rest = step
    for phase in PHASES:
        if phase in averages:
            seconds = averages[phase].cpu_time_total / 1e6 / STEPS
            rest -= seconds
            lines.append(f"{phase:<12} {1e3 * seconds:>10.2f} {100 * seconds / step:>5.0f}%")
    lines.append(f"{'the rest':<12} {1e3 * rest:>10.2f} {100 * rest / step:>5.0f}%")
    if device == "cuda":
        lines.append("(host time: the GPU may still compute after a phase; see the operations)")
        lines.append(f"peak memory {torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB")
    key = f"self_{device if device == 'cpu' else 'device'}_time_total"
    operations = sorted(
        (event for name, event in averages.items() if name not in PHASES),
        key=lambda event: -getattr(event, key),
    )
    lines += ["", f"{'operation':<44} ms a step  calls a step"]
    for event in operations[:OPERATIONS]:
        lines.append(
            f"{event.key[:44]:<44} {getattr(event, key) / 1e3 / STEPS:>9.2f}"
            f" {event.count / STEPS:>13.1f}"
        )
    return "\n".join(lines) + "\n"
