"""Weights & Biases as the logger: metrics by step, the config, pictures and tables. A logger never stops a run."""

from core import checkpoint, config

import os
import secrets
from pathlib import Path
from typing import Any

import wandb
from wandb.errors import Error as WandbError


class Logger:
    """One W&B run, or nothing at all where `wandb=disabled`."""

    def __init__(self, run: config.RunConfig, folder: Path, wandb_id: str = ""):
        self.id = wandb_id or secrets.token_hex(4)
        mode = _mode(run.wandb)
        self._run: Any = None
        if mode == "disabled":
            return
        settings = wandb.Settings(silent=True, init_timeout=30)
        options = {
            "project": "twobounds",
            "id": self.id,
            "name": folder.name,
            "dir": str(folder),
            "config": config.to_dict(run),
            "resume": "allow",
        }
        try:
            self._run = wandb.init(mode=mode, settings=settings, **options)  # type: ignore[arg-type]
        except (WandbError, TimeoutError, OSError) as error:
            print(f"wandb: {mode} logging failed ({str(error).splitlines()[0]}); logging offline instead")
            self._run = wandb.init(mode="offline", settings=settings, **options)  # type: ignore[arg-type]
        self._run.define_metric("*", step_metric="step")  # our own step: a resumed run may log a step that W&B has seen

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Named numbers at a step."""
        if self._run:
            self._run.log({"step": step, **values})

    def pictures(self, paths: dict[str, Path], step: int) -> None:
        """PNG files by name at a step."""
        if self._run:
            self._run.log({"step": step, **{name: wandb.Image(str(path)) for name, path in paths.items()}})

    def table(self, name: str, columns: list[str | int], rows: list[list[Any]]) -> None:
        """A table, such as the probe's."""
        if self._run:
            self._run.log({name: wandb.Table(columns=columns, data=rows)})

    def close(self) -> None:
        if self._run:
            self._run.finish()


def attach(path: Path) -> Logger:
    """The logger of the run that made a checkpoint, for what is measured on it later."""
    entries = checkpoint.read(path)
    return Logger(checkpoint.run_of(path, entries), path.parent, str(entries["wandb_id"]))


def _mode(wanted: str) -> str:
    """`auto` is online where somebody is logged in and offline elsewhere; W&B's own WANDB_MODE still overrules `auto`."""
    if wanted != "auto":
        return wanted
    if os.environ.get("WANDB_MODE") in ("online", "offline", "disabled"):
        return os.environ["WANDB_MODE"]
    return "online" if wandb.login(prompt=False) else "offline"
