"""A checkpoint is a `State` on disk: config, method, optimiser and step in one file, written atomically.

Loading never unpickles code (`weights_only=True`), is strict about keys and shapes, and finds methods by name only in the
project's own rooms, so that a file from a stranger can not run anything.
"""

from core import config
from core.errors import UserError
from core.method import Method, locate

import hashlib
import os
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = "twobounds/1"
ENTRIES = {"format", "config", "shape", "method", "optimizer", "step", "best", "wandb_id"}


@dataclass
class State:
    """All that a run is. Randomness is a function of (seed, step), so there is no generator state to keep."""

    run: config.RunConfig
    method: Method
    optimizer: torch.optim.Optimizer
    step: int = 0
    best: float = float("-inf")  # the best validation criterion so far
    wandb_id: str = ""


def save(path: Path, state: State) -> None:
    """Write the state to a temporary name, sync it, rename it: `path` always holds a whole checkpoint or the one before."""
    entries = {
        "format": FORMAT,
        "config": config.to_dict(state.run),
        "shape": list(state.method.shape),
        "method": state.method.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "best": state.best,
        "wandb_id": state.wandb_id,
    }
    write_atomically(path, lambda temporary: torch.save(entries, temporary))


def write_atomically(path: Path, write: Any) -> None:
    """Call `write(temporary)` and rename the result to `path`, so that no reader ever sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror or error}); free some space or change `folder`") from None
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """The checked entries of a checkpoint, on the CPU. A `UserError` says what is wrong with the file."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        entries = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path}: refused, it holds something other than tensors and plain values") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise UserError(f"{path}: damaged or no checkpoint; use another one, such as best.ckpt of the same run") from None
    if not isinstance(entries, dict) or entries.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of the format {FORMAT}")
    _same_keys(path, "entry", set(entries), ENTRIES)
    return entries


def run_of(path: Path, entries: dict[str, Any]) -> config.RunConfig:
    """The config that a checkpoint holds, checked as a YAML file would be."""
    return config.from_dict(entries["config"], str(path))


def restore(path: Path, entries: dict[str, Any], state: State) -> None:
    """Put a checkpoint's method, optimiser and step into a freshly built state."""
    load_weights(path, entries["method"], state.method)
    try:
        state.optimizer.load_state_dict(entries["optimizer"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: its optimizer does not fit the config ({error})") from None
    state.step, state.best, state.wandb_id = int(entries["step"]), float(entries["best"]), str(entries["wandb_id"])


def load_weights(path: Path, weights: Any, method: Method) -> None:
    """Strict: every tensor of the method is in the file with the same shape, and nothing else is."""
    if not isinstance(weights, dict):
        raise UserError(f"{path}: holds no method weights")
    own = method.state_dict()
    _same_keys(path, "weight", set(weights), set(own))
    for key, value in own.items():
        given = weights[key]
        if not isinstance(given, Tensor) or given.shape != value.shape or given.dtype != value.dtype:
            found = f"{given.dtype} {list(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
            raise UserError(f"{path}: weight '{key}' should be {value.dtype} {list(value.shape)}, found {found}")
    method.load_state_dict(weights, strict=True)


def load_method(path: str | Path, device: torch.device | str = "cpu") -> tuple[Method, config.RunConfig, int]:
    """The frozen method of a checkpoint in eval mode, its config and its step, from the file alone."""
    path = Path(path)
    entries = read(path)
    run = run_of(path, entries)
    method = build_method(run, shape_of(path, entries))
    load_weights(path, entries["method"], method)
    return method.eval().requires_grad_(False).to(device), run, int(entries["step"])


def shape_of(path: Path, entries: dict[str, Any]) -> tuple[int, int, int]:
    """The image shape (C, H, W) that a checkpoint's method was built for."""
    shape = entries["shape"]
    if not (isinstance(shape, list) and len(shape) == 3 and all(isinstance(n, int) and 0 < n <= 4096 for n in shape)):
        raise UserError(f"{path}: its image shape {shape!r} is no (channels, height, width)")
    return shape[0], shape[1], shape[2]


def build_method(run: config.RunConfig, shape: tuple[int, int, int]) -> Method:
    """A new method with weights that are a function of `run.seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return locate(run.method)(run.model, shape)


def digest(path: str | Path) -> str:
    """sha256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _same_keys(path: Path, what: str, found: set[str], expected: set[str]) -> None:
    missing, surplus = sorted(expected - found), sorted(map(str, found - expected))
    if missing or surplus:
        parts = [f"{len(keys)} {label} (first: '{keys[0]}')" for label, keys in (("missing", missing), ("surplus", surplus)) if keys]
        raise UserError(f"{path}: {what} keys do not match the method: {', '.join(parts)}")
