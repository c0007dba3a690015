"""Weights & Biases as the logger: metrics by step, the config, pictures and tables. A logger never
stops a run, nor makes it wait.
"""

import os
import queue
import secrets
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from core.run import checkpoint, config

# seconds that a server has to answer: once at the start, behind training's back, and once at the
# end
PATIENCE = 30


class Logger:
    """One W&B run, or nothing at all where `wandb=disabled`.

    Everything that W&B is asked runs on a thread of its own, in order, so that a server that is
    slow, refuses or hangs costs training nothing. What a server did not take lies in the run's
    folder, and `wandb sync` sends it. The run's id is ours, so that a run that was interrupted
    before any server answered resumes as the same one.
    """

    def __init__(self, run: config.RunConfig, folder: Path, wandb_id: str = ""):
        self.id = wandb_id or secrets.token_hex(4)
        self._entries: queue.SimpleQueue[dict[str, Any] | None] = (
            queue.SimpleQueue()
        )  # None is the end
        self._thread: threading.Thread | None = None
        self.mode, self._options = _mode(run.wandb), self._settings(run, folder)
        if self.mode != "disabled":
            os.environ.setdefault(
                "WANDB_ERROR_REPORTING", "false"
            )  # its reports about itself would hold up the exit for 20 s
            self._thread = threading.Thread(target=self._work, daemon=True, name="wandb")
            self._thread.start()

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Named numbers at a step."""
        self._put({"step": step, **values})

    def pictures(self, paths: dict[str, Path], step: int) -> None:
        """PNG files by name at a step."""
        if self._thread:  # read now: the next validation writes the same files
            self._put(
                {"step": step, **{name: Image.open(path).copy() for name, path in paths.items()}}
            )

    def table(self, name: str, columns: list[str | int], rows: list[list[Any]]) -> None:
        """A table, such as the probe's."""
        self._put({name: (columns, rows)})

    def close(self, patience: float = 3 * PATIENCE) -> None:
        """Send what is left, waiting at most `patience` seconds."""
        if self._thread:
            self._entries.put(None)
            self._thread.join(patience)
            self._thread = None

    def _settings(self, run: config.RunConfig, folder: Path) -> dict[str, Any]:
        known = {
            "project": "twobounds",
            "id": self.id,
            "name": folder.name,
            "dir": str(folder),
            "resume": "allow",
        }
        return {**known, "config": config.to_dict(run)}

    def _put(self, entry: dict[str, Any]) -> None:
        if self._thread:
            self._entries.put(entry)

    def _work(self) -> None:
        try:
            run = self._start()
            run.define_metric(
                "*", step_metric="step"
            )  # our own step: a resumed run may log a step that W&B has seen
            while (entry := self._entries.get()) is not None:
                run.log({name: _as_media(value) for name, value in entry.items()})
            run.finish()
        except Exception as error:  # whatever happens to a logger, training goes on
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
            _say(
                f"{mode} logging failed ({_reason(error)}); logging offline instead, `wandb sync`"
                " sends it later"
            )
            wandb.teardown()  # its service would refuse the id that the failed attempt still holds
            return self._init("offline")

    def _init(self, mode: str) -> Any:
        import wandb

        # a server gets its time and no more; offline W&B waits for itself alone, which on a busy
        # machine takes seconds too
        settings: dict[str, Any] = {"silent": True, "finish_timeout": PATIENCE} | (
            {"init_timeout": PATIENCE} if mode == "online" else {}
        )
        return wandb.init(mode=mode, settings=wandb.Settings(**settings), **self._options)  # type: ignore[arg-type]


def attach(path: Path, trusted: Iterable[str] = ()) -> Logger:
    """The logger of the run that made a checkpoint, for what is measured on it later."""
    entries = checkpoint.read(path)
    return Logger(checkpoint.run_of(path, entries, trusted), path.parent, str(entries["wandb_id"]))


def _mode(wanted: str) -> str:
    """`auto` is online where somebody is logged in and offline elsewhere; W&B's own WANDB_MODE
    still overrules `auto`.
    """
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
