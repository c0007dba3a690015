"""The results of a check. They are written after every stage, so a time limit loses at most the
current stage.
"""

import json
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from core.files import write_atomically


class Stage(NamedTuple):
    """`run(check)` writes into `check`. It is skipped if fewer than `least` seconds are left."""

    run: Callable[["Check"], None]
    least: float


class Check:
    """The device under test, the remaining time, and the results so far."""

    def __init__(self, device: torch.device, folder: Path, seconds: float, compiled: bool):
        self.device, self.folder, self.compiled = device, folder, compiled
        self.gpu = device.type == "cuda"
        self.found: dict[str, dict[str, Any]] = {}
        self.lines: list[str] = []
        self.failed: list[str] = []
        self._began, self._seconds, self._stage = time.monotonic(), seconds, ""

    @property
    def left(self) -> float:
        """Seconds until the check must end."""
        return self._seconds - (time.monotonic() - self._began)

    def put(self, name: str, value: Any) -> None:
        """Store a number, or a tree of numbers, of the current stage."""
        self.found.setdefault(self._stage, {})[name] = value

    def say(self, text: str) -> None:
        self.lines.append(text)
        print(f"[{time.monotonic() - self._began:6.1f} s] {text}", flush=True)

    def fail(self, text: str) -> None:
        """Report a wrong result; the command's exit code will be 1."""
        self.failed.append(f"{self._stage}: {text}")
        self.say(f"{self._stage}: WRONG: {text}")

    def run(self, name: str, stage: Stage) -> None:
        """Run one stage. An error is recorded, and the next stage starts."""
        self._stage, began = name, time.monotonic()
        least = stage.least if self.gpu else 3
        if self.left < least:
            self.say(f"{name}: skipped, {self.left:.0f} s left of the {least:.0f} s that it needs")
            self.put("skipped", True)
        else:
            try:
                stage.run(self)
            except Exception as error:  # a kernel that fails must not hide the results of others
                self.put("failed", traceback.format_exc())
                self.fail(f"{type(error).__name__}: {str(error).strip()[:500]}")
        self.put("seconds", time.monotonic() - began)
        self.write()

    def write(self) -> None:
        """Write summary.json with all numbers, and summary.txt with all messages."""
        found = {"stages": self.found, "failed": self.failed}
        for name, text in (
            ("summary.json", json.dumps(found, indent=1, default=str)),
            ("summary.txt", "\n".join(self.lines)),
        ):
            write_atomically(self.folder / name, partial(Path.write_text, data=text + "\n"))
