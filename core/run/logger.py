"""Weights & Biases as the logger; it never stops a run and never makes it wait."""

import os
import queue
import secrets
import sys
import threading
from pathlib import Path
from typing import Any

from PIL import Image

from core.run import config

PATIENCE = 30  # seconds for a server to answer: at the start, in the background, and at the end


class Logger:
    """One W&B run, or nothing if `wandb=disabled`.

    All calls to W&B run on one thread, in order, so a server that is slow, refuses or hangs does
    not delay training. Data that the server did not take stay in the run's folder for `wandb sync`.
    The run's id is ours, so an interrupted run is resumed as the same W&B run.
    """

    def __init__(self, run: config.RunConfig, folder: Path, wandb_id: str = ""):
        self.id = wandb_id or secrets.token_hex(4)
        # None marks the end
        self._entries: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.mode, self._options = _mode(run.wandb), self._settings(run, folder)
        if self.mode != "disabled":
            # W&B's reports about itself would delay the exit by 20 s
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
            self._thread = threading.Thread(target=self._work, daemon=True, name="wandb")
            self._thread.start()

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Log named numbers at a step."""
        self._put({"step": step, **values})

    def pictures(self, paths: dict[str, Path], step: int) -> None:
        """Log PNG files by name at a step."""
        if self._thread:  # read now, because the next validation overwrites the files
            images = {name: Image.open(path).copy() for name, path in paths.items()}
            self._put({"step": step, **images})

    def table(self, name: str, columns: list[str | int], rows: list[list[Any]]) -> None:
        """Log a table, such as the probe's."""
        self._put({name: (columns, rows)})

    def close(self, patience: float = 3 * PATIENCE) -> None:
        """Send the remaining entries, waiting at most `patience` seconds."""
        if self._thread:
            self._entries.put(None)
            self._thread.join(patience)
            self._thread = None

    def _settings(self, run: config.RunConfig, folder: Path) -> dict[str, Any]:
        known = {"project": "twobounds", "id": self.id, "name": folder.name, "resume": "allow"}
        return {**known, "dir": str(folder), "config": config.to_dict(run)}

    def _put(self, entry: dict[str, Any]) -> None:
        if self._thread:
            self._entries.put(entry)

    def _work(self) -> None:
        try:
            run = self._start()
            # our own step, because a resumed run may log a step that W&B already has
            run.define_metric("*", step_metric="step")
            while (entry := self._entries.get()) is not None:
                run.log({name: _as_media(value) for name, value in entry.items()})
            run.finish()
        except Exception as error:  # training continues after any error of the logger
            _say(f"logging ended ({_reason(error)}); metrics.jsonl holds the numbers")

    def _start(self) -> Any:
        import wandb  # here: it takes a second, and wandb=disabled needs none of it
        from wandb.errors import Error as WandbError

        mode = self.mode
        if mode == "auto":
            mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
        try:
            return self._init(mode)
        except (WandbError, TimeoutError, OSError) as error:
            if mode == "offline":
                raise
            reason = f"{mode} logging failed ({_reason(error)})"
            _say(f"{reason}; logging offline instead, `wandb sync` sends it later")
            wandb.teardown()  # the service would refuse the id, which the failed attempt holds
            return self._init("offline")

    def _init(self, mode: str) -> Any:
        import wandb

        # Only a server gets a time limit; offline W&B needs seconds of its own on a busy machine.
        limits = {"finish_timeout": PATIENCE}
        limits |= {"init_timeout": PATIENCE} if mode == "online" else {}
        settings = wandb.Settings(silent=True, **limits)  # type: ignore[arg-type]
        return wandb.init(mode=mode, settings=settings, **self._options)  # type: ignore[arg-type]


def _mode(wanted: str) -> str:
    """The mode of W&B: for `auto`, WANDB_MODE decides if it is set."""
    asked = os.environ.get("WANDB_MODE")
    return asked if wanted == "auto" and asked in ("online", "offline", "disabled") else wanted


def _as_media(value: Any) -> Any:
    import wandb

    if isinstance(value, Image.Image):
        return wandb.Image(value)
    return wandb.Table(columns=value[0], data=value[1]) if isinstance(value, tuple) else value


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _say(line: str) -> None:
    print(f"wandb: {line}", file=sys.stderr, flush=True)
