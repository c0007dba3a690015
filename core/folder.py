"""A run folder: the resolved config, last.ckpt and best.ckpt, metrics.jsonl and pictures. One folder holds one run."""

from core import config
from core.checkpoint import write_atomically
from core.errors import UserError

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

# What may differ between a run and its resumption: where it runs and what is told about it, never what is computed.
FREE = {
    "resume",
    "wandb",
    "data.root",
    "data.workers",
    "data.download",
    "data.memory",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.profile",
}


def make_folder(path: Path, key: str, mend: str) -> None:
    """The folder and those above it; a `UserError` names the option and the mend where that can not be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}: {path} can not be made ({error.strerror}); {mend}") from None


class RunFolder:
    """The files of one run, and the rules that keep a run from being overwritten."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.last, self.best = self.path / "last.ckpt", self.path / "best.ckpt"
        self.config, self.metrics, self.pictures = self.path / "config.yaml", self.path / "metrics.jsonl", self.path / "pictures"

    def check(self, run: config.RunConfig) -> None:
        """Refuse, before anything is written, a folder that holds another run, or this one when it is not resumed."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"folder: {self.path} is a file; name another folder=…")
        if not self.config.is_file():
            if self.last.exists():
                raise UserError(f"folder: {self.path} holds a checkpoint without its config.yaml; name another folder=…")
            return
        held = config.to_dict(config.read(self.config, []))
        wanted = config.to_dict(run)
        for key, (there, here) in sorted(_differences(held, wanted).items()):
            if key not in FREE:
                raise UserError(
                    f"folder: {self.path} already holds a run with another config"
                    f" ({key} is {there!r} there and {here!r} here); name another folder=… or delete it"
                )
        if self.last.exists() and not run.resume:
            raise UserError(f"folder: {self.path} already holds this run; add --resume to go on with it, or name another folder=…")

    def create(self, run: config.RunConfig) -> None:
        """Make the folder and write the resolved config."""
        make_folder(self.pictures, "folder", "name another folder=…")
        text = OmegaConf.to_yaml(OmegaConf.create(config.to_dict(run)))
        write_atomically(self.config, lambda temporary: temporary.write_text(text))

    def rewind_metrics(self, step: int) -> None:
        """Drop the logged lines after `step`: a resumed run writes them again, so that no step stands twice."""
        kept = []
        for line in self.metrics.read_text().splitlines() if self.metrics.exists() else []:
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (json.JSONDecodeError, KeyError, TypeError):
                continue  # the line that was being written when the run was killed
        write_atomically(self.metrics, lambda temporary: temporary.write_text("".join(kept)))

    def append_metrics(self, values: dict[str, Any]) -> None:
        """One JSON line; its "step" comes first."""
        try:
            with open(self.metrics, "a") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise UserError(f"{self.metrics}: could not be written ({error.strerror})") from None


def _differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for key in a.keys() | b.keys():
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found |= _differences(left, right, f"{prefix}{key}.")
        elif left != right and prefix + key != "folder":
            found[prefix + key] = (left, right)
    return found
