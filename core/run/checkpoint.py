"""Checkpoints: config, method, optimiser and step of a `State` in one file, written atomically.

The file is torch's zip format, in which each record has a CRC-32, so flipped bits are detected.

A checkpoint from a stranger runs no code. `core.run.archive` reads only tensors and plain values.
The config is literal text; its method must lie in the project's own packages or in one that the
user trusts. Keys, shapes, types, sizes and values are checked before they are used.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.distributed import rank
from core.errors import UserError, shown
from core.files import write_atomically
from core.method import Method
from core.run import archive, config
from core.run.budget import OverBudget, budget
from core.run.finite import not_finite, require_finite
from core.run.moments import load_moments
from core.run.resumable import hindrances
from core.run.sharding import assemble, gather_full, shard_like, sharded
from core.transfer import to_host
from core.trust import package_of

FORMAT = "twobounds/1"
SPARE = 2**28  # bytes that building a method may use in addition to four times its weights
LARGEST = 3 * 4096**2  # the most values that an image may have
ID, TEXT_ID = re.compile(r"[A-Za-z0-9_-]{0,64}"), "an id of at most 64 letters, digits, _ and -"


def _is_shape(value: Any) -> bool:
    sides = isinstance(value, list) and len(value) == 3 and all(type(n) is int for n in value)
    return sides and min(value) > 0 and math.prod(value) <= LARGEST


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


# The entries of a checkpoint: a check, and its description in a message.
ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "format": (lambda value: value == FORMAT, FORMAT),
    "config": (_is_mapping, "a mapping of keys to values"),
    "shape": (_is_shape, "(channels, height, width) of an image"),
    "method": (_is_mapping, "the method's weights by name"),
    "optimizer": (_is_mapping, "the optimiser's state"),
    "scaler": (_is_mapping, "the state of a gradient scaler"),
    "step": (lambda value: type(value) is int and 0 <= value < 2**63, "0 or more steps"),
    "best": (lambda value: type(value) is float and value == value, "a score"),
    "wandb_id": (lambda value: type(value) is str and bool(ID.fullmatch(value)), TEXT_ID),
}


@dataclass
class State:
    """Training state: config, method, optimizer, step. No state of a random generator is kept,
    because random numbers are a function of the seed and the step.
    """

    run: config.RunConfig
    method: Method
    optimizer: torch.optim.Optimizer
    step: int = 0
    best: float = float("-inf")  # the best validation criterion so far
    wandb_id: str = ""
    scaler: torch.amp.GradScaler | None = None  # for the precision 16-mixed
    init: str = ""  # sha256 of the file that gave the first weights
    epochs_before: int = 0  # optim.epochs of the resumed checkpoint; this run may have more


class Entries(dict[str, Any]):
    """The entries of a checkpoint file by name; `digest` is the sha256 of the file's bytes."""

    digest: str

    def __init__(self, entries: dict[str, Any], digest: str):
        super().__init__(entries)
        self.digest = digest


class Loaded(NamedTuple):
    """A frozen method with the config, step and digest of its checkpoint."""

    method: Method
    run: config.RunConfig
    step: int
    digest: str  # sha256 in hex of the bytes of the file


class Damaged(UserError):
    """A checkpoint file that is cut short or has flipped bits."""


class Snapshot(NamedTuple):
    """The entries of a checkpoint as copies on the CPU, which later steps do not change."""

    entries: dict[str, Any]
    buffers: set[str]  # names of the weights that are buffers
    ready: Callable[[], object]  # waits until the copies are complete


def snapshot(state: State) -> Snapshot | None:
    """Copy a state, without waiting for a GPU. None in all processes but the first.

    All processes must call it, because each may hold a part of the weights.
    """
    weights, optimizer = gather_full(
        (state.method.state_dict(), state.optimizer.state_dict()), keep=rank() == 0
    )
    if rank():
        return None
    (weights, optimizer), ready = to_host((weights, optimizer))
    entries = {
        "format": FORMAT,
        "config": config.to_dict(state.run),
        "shape": list(state.method.shape),
        "method": weights,
        "optimizer": optimizer,
        "step": int(state.step),
        "best": float(state.best),
        "wandb_id": state.wandb_id,
        "scaler": state.scaler.state_dict() if state.scaler else {},
    }
    return Snapshot(entries, {name for name, _ in state.method.named_buffers()}, ready)


def write(path: Path, held: Snapshot, keep: int = 1) -> None:
    """Write a snapshot atomically: `path` always holds the whole new or the whole old checkpoint.

    The newest `keep` versions stay, as `path`, `earlier(path, 1)` and so on. If a weight or a
    number of the optimiser is not finite, this raises `UserError` and changes no file.
    """
    held.ready()
    entries = held.entries
    require_finite(path, entries["step"], entries["method"], held.buffers, entries["optimizer"])

    def whole(temporary: Path) -> None:
        # torch.save with a path would hide the system's error, such as a full disk
        with open(temporary, "wb") as file:
            torch.save(entries, file)

    write_atomically(path, whole, keep)


def save(path: Path, state: State, keep: int = 1) -> None:
    """Write a state (see `snapshot` and `write`). All processes must call it; the first writes."""
    if (held := snapshot(state)) is not None:
        write(path, held, keep)


def read(path: Path) -> Entries:
    """The checked entries of a checkpoint, on the CPU, with the digest of the file.

    The file is read only once, because another process may replace it between two reads. Raises
    `UserError`, or `Damaged` if the file is not whole.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such checkpoint")
        entries, sha256 = archive.read(path)
    except archive.Foreign as error:
        raise UserError(
            f"{path}: refused, because it holds something other than tensors and plain values"
            f" ({shown(str(error))})"
        ) from None
    except archive.Broken as error:
        raise Damaged(f"{path}: damaged or not a checkpoint ({error}); {_advice(path)}") from None
    except (OSError, MemoryError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(f"{path}: can not be read ({reason})") from None
    if not isinstance(entries, dict) or entries.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of the format {FORMAT}")
    entries.setdefault("scaler", {})  # missing in older files
    _same_keys(path, "entries", "format", set(entries), set(ENTRIES))
    for name, (fits, meaning) in ENTRIES.items():
        if not fits(entries[name]):
            found = shown(entries[name])
            raise UserError(f"{path}: its {name} is {found}, but should be {meaning}")
    return Entries(entries, sha256)


def _advice(path: Path) -> str:
    """What to use instead of a damaged checkpoint: another one of the same run."""
    try:
        others = sorted(other.name for other in path.parent.glob("*.ckpt") if other != path)
    except OSError:
        others = []
    return f"use another one of the same run, such as {others[0]}" if others else "train again"


def run_of(path: Path, entries: dict[str, Any], trusted: Iterable[str] = ()) -> config.RunConfig:
    """The checked config of a checkpoint, without the settings that only a user may choose."""
    return config.from_a_stranger(entries["config"], str(path), trusted)


def restore(path: Path, entries: dict[str, Any], state: State) -> None:
    """Load a checkpoint into a new state, whose config must agree with the file's."""
    trusted = [package_of(state.run.method)]
    there = config.to_dict(config.from_dict(entries["config"], str(path), trusted))
    here = config.to_dict(state.run)
    for key, (theirs, ours) in sorted(hindrances(there, here, state.run.resume).items()):
        raise UserError(
            f"{path}: belongs to a run with another config ({key} is {shown(theirs)} there and"
            f" {shown(ours)} here)"
        )
    if shape_of(path, entries) != tuple(state.method.shape):
        raise UserError(
            f"{path}: its images are {entries['shape']} (channels, height, width), but the run's"
            f" are {list(state.method.shape)}"
        )
    load_weights(path, entries["method"], state.method)
    step = entries["step"]
    load_moments(path, entries["optimizer"], state.optimizer, state.run.optim.name, step)
    _restore_scaler(path, entries["scaler"], state.scaler)
    state.epochs_before = there["optim"]["epochs"]
    state.step, state.best, state.wandb_id = step, entries["best"], entries["wandb_id"]


def _restore_scaler(path: Path, held: Any, scaler: torch.amp.GradScaler | None) -> None:
    """Restore the scale of a 16-mixed run; if the file has none, the initial scale is used."""
    if scaler is None or held == {}:
        return
    own = scaler.state_dict()
    if not (
        isinstance(held, dict)
        and held.keys() == own.keys()
        and all(type(held[key]) is type(value) for key, value in own.items())
        and all(math.isfinite(value) and value >= 0 for value in held.values())
    ):
        raise UserError(f"{path}: its gradient scaler is invalid")
    scaler.load_state_dict(held)


def load_weights(path: Path, weights: Any, method: Method) -> None:
    """Load weights that have exactly the method's names, shapes and types, and are finite."""
    own = method.state_dict()
    _check_weights(path, weights, own)
    buffers = {name for name, _ in method.named_buffers()}
    if bad := not_finite(weights, buffers):
        raise UserError(f"{path}: {bad[0]} is not finite; {_advice(path)}")
    for key, value in own.items():
        mask = "mask" in key and value.dtype == torch.bool
        if mask and not torch.equal(weights[key], value.cpu()):
            raise UserError(f"{path}: '{key}' is a mask, but not the method's mask")
    parts = {key: shard_like(weights[key], value) for key, value in own.items()}
    try:
        method.load_state_dict(parts, strict=True)
    except RuntimeError as error:  # a module's own check
        raise UserError(f"{path}: {str(error).splitlines()[-1].strip()}") from None


def _check_weights(path: Path, weights: Any, own: dict[str, Tensor]) -> None:
    _same_keys(path, "weights", "method", set(weights), set(own))
    for key, value in own.items():
        given = weights[key]
        if isinstance(given, Tensor) and (given.shape, given.dtype) == (value.shape, value.dtype):
            continue
        is_tensor = isinstance(given, Tensor)
        found = f"{given.dtype} {list(given.shape)}" if is_tensor else shown(given)
        wanted = f"{value.dtype} {list(value.shape)}"
        raise UserError(f"{path}: weight '{key}' should be {wanted}, found {found}")


def load_method(
    path: str | Path, device: torch.device | str = "cpu", trusted: Iterable[str] = ()
) -> Loaded:
    """The frozen method of a checkpoint file in eval mode, with its config, step and digest.

    Its class must lie in the project's own packages or in a `trusted` one.
    """
    return method_of(Path(path), read(Path(path)), device, trusted)


def method_of(
    path: Path,
    entries: Entries,
    device: torch.device | str = "cpu",
    trusted: Iterable[str] = (),
) -> Loaded:
    """`load_method` for entries that were read from `path`."""
    run = run_of(path, entries, trusted)
    method = build_for(path, entries, run)
    double = run.trainer.precision.startswith("64")
    load_weights(path, entries["method"], method.double() if double else method)
    if double:
        method.float()  # probes read features in float32
    method = method.eval().requires_grad_(False).to(device)
    return Loaded(method, run, entries["step"], entries.digest)


def build_for(path: Path, entries: dict[str, Any], run: config.RunConfig) -> Method:
    """A new method for a checkpoint's weights. A config that asks for sizes that the
    weights do not have is refused before the memory is allocated.
    """
    weights = [value for value in entries["method"].values() if isinstance(value, Tensor)]
    size = sum(value.nbytes for value in weights)
    try:
        with budget(4 * size + SPARE, 10 * len(weights) + 500):
            return build_method(run, shape_of(path, entries))
    except OverBudget as error:
        raise UserError(
            f"{path}: its config asks for a network of {error}, but its weights are"
            f" {size / 2**20:,.1f} MiB"
        ) from None
    except UserError:
        raise
    except Exception as error:  # a network's own error about its sizes
        raise UserError(
            f"{path}: no network can be built from its config ({type(error).__name__}: {error})"
        ) from None


def shape_of(path: Path, entries: dict[str, Any]) -> tuple[int, int, int]:
    """The image shape (C, H, W) for which a checkpoint's method was built."""
    channels, height, width = entries["shape"]
    return channels, height, width


def build_method(run: config.RunConfig, shape: tuple[int, int, int]) -> Method:
    """A new method with weights that are a function of `run.seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return config.method_class(run)(run.model, shape)


def whole_method(state: State) -> Method:
    """The method, or a whole copy of it if it is sharded. All processes must call this."""
    if not sharded(state.method):
        return state.method
    return assemble(state.method, build_method(state.run, state.method.shape))


def digest(path: str | Path) -> str:
    """sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _same_keys(path: Path, what: str, owner: str, found: set[str], expected: set[str]) -> None:
    missing, surplus = sorted(expected - found), sorted(map(str, found - expected))
    named = (("missing", missing), ("unexpected", surplus))
    parts = [f"{len(keys)} {label} (first: '{keys[0]}')" for label, keys in named if keys]
    if parts:
        raise UserError(f"{path}: its {what} do not match the {owner}: {', '.join(parts)}")
