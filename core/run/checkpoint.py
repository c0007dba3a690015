"""A checkpoint is a `State` on disk: config, method, optimiser and step in one file, written
atomically.

The file is torch's zip, whose every record carries a CRC-32, so that a flipped bit is damage and
not a slightly other network. Every checkpoint that torch.save ever wrote has these checksums.

A checkpoint from a stranger runs nothing. It is read by a reader that knows tensors and plain
values only (`core.run.archive`); its config is literal text, whose method is looked for in the
project's own rooms and in packages that the user trusts; keys, shapes, types, sizes and values are
checked before they are used.
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
from core.method import Method, package_of
from core.run import archive, config
from core.run.budget import OverBudget, budget
from core.run.finite import not_finite, require_finite
from core.run.moments import load_moments
from core.run.resumable import RESUMABLE_KEYS, differences
from core.run.sharding import assemble, gather_full, shard_like, sharded

FORMAT = "twobounds/1"
SPARE = 2**28  # bytes that building a method may take beyond four times its weights
LARGEST = 3 * 4096**2  # numbers of an image


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(n) is int and n > 0 for n in value)
        and math.prod(value) <= LARGEST
    )


# What a checkpoint holds, and what each entry has to be.
ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "format": (lambda value: value == FORMAT, FORMAT),
    "config": (lambda value: isinstance(value, dict), "a mapping of keys to values"),
    "shape": (_is_shape, "(channels, height, width) of an image"),
    "method": (lambda value: isinstance(value, dict), "the method's weights by name"),
    "optimizer": (lambda value: isinstance(value, dict), "the optimiser's state"),
    "scaler": (lambda value: isinstance(value, dict), "the state of a gradient scaler"),
    "step": (lambda value: type(value) is int and 0 <= value < 2**63, "a number of steps"),
    "best": (lambda value: type(value) is float and value == value, "a score"),
    "wandb_id": (
        lambda value: (
            type(value) is str and re.fullmatch(r"[A-Za-z0-9_-]{0,64}", value) is not None
        ),
        "an id of letters and digits",
    ),
}


@dataclass
class State:
    """Training state: config, method, optimizer, step. Randomness is a function of (seed, step), so
    there is no generator state to keep.
    """

    run: config.RunConfig
    method: Method
    optimizer: torch.optim.Optimizer
    step: int = 0
    best: float = float("-inf")  # the best validation criterion so far
    wandb_id: str = ""
    scaler: torch.amp.GradScaler | None = None  # of the precision 16-mixed


class Entries(dict[str, Any]):
    """What a checkpoint file holds, by name; `digest` is the sha256 of exactly the bytes that were
    read.
    """

    digest: str

    def __init__(self, entries: dict[str, Any], digest: str):
        super().__init__(entries)
        self.digest = digest


class Loaded(NamedTuple):
    """A frozen method, and what its checkpoint says of it."""

    method: Method
    run: config.RunConfig
    step: int
    digest: str  # sha256 of the bytes that the weights were read from, hexadecimal


class Damaged(UserError):
    """A checkpoint file that is not whole: cut short, or with bits that are not those that were
    written.
    """


def save(path: Path, state: State, keep: int = 1) -> None:
    """Write the state to a temporary name, sync it, rename it: `path` always holds a whole
    checkpoint or the one before.

    To be called by all processes, for each may hold a part of the weights; the first one writes.
    The newest `keep` versions stay: `path`, and those before it as `earlier(path, 1)` and so on. A
    state with a weight that is not finite raises `UserError` and touches no file: a good checkpoint
    is never replaced by one that nobody can go on with.
    """
    weights, optimizer = gather_full(
        (state.method.state_dict(), state.optimizer.state_dict()), keep=rank() == 0
    )
    if rank():
        return
    require_finite(
        path, state.step, weights, {name for name, _ in state.method.named_buffers()}, optimizer
    )
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

    def write(temporary: Path) -> None:
        with (
            open(temporary, "wb") as file
        ):  # torch, given a path, would say that a disk is full without the system's own error
            torch.save(entries, file)

    write_atomically(path, write, keep)


def read(path: Path) -> Entries:
    """The checked entries of a checkpoint, on the CPU, with the digest of the file they were read
    from. A `UserError` says what is wrong with the file, `Damaged` that it is not whole.

    The file is read once: another process may replace it at any moment, and a digest of other bytes
    would name other weights.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such checkpoint")
        entries, sha256 = archive.read(path)
    except archive.Foreign as error:
        raise UserError(
            f"{path}: refused, it holds something other than tensors and plain values"
            f" ({shown(str(error))})"
        ) from None
    except archive.Broken as error:
        raise Damaged(f"{path}: damaged or no checkpoint ({error}); {_mend(path)}") from None
    except (OSError, MemoryError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(f"{path}: can not be read ({reason})") from None
    if not isinstance(entries, dict) or entries.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of the format {FORMAT}")
    entries.setdefault("scaler", {})  # older files have none
    _same_keys(path, "entry", set(entries), set(ENTRIES))
    for name, (fits, meaning) in ENTRIES.items():
        if not fits(entries[name]):
            raise UserError(
                f"{path}: its {name} is {shown(entries[name])}, and should be {meaning}"
            )
    return Entries(entries, sha256)


def _mend(path: Path) -> str:
    """What to use in the place of a damaged checkpoint: another one of the same run."""
    try:
        others = sorted(other.name for other in path.parent.glob("*.ckpt") if other != path)
    except OSError:
        others = []
    return f"use another one of the same run, such as {others[0]}" if others else "train again"


def run_of(path: Path, entries: dict[str, Any], trusted: Iterable[str] = ()) -> config.RunConfig:
    """The config that a checkpoint holds, checked as a YAML file would be, with what only a user
    may decide taken out (`config.from_a_stranger`).
    """
    return config.from_a_stranger(entries["config"], str(path), trusted)


def restore(path: Path, entries: dict[str, Any], state: State) -> None:
    """Put a checkpoint's method, optimiser and step into a freshly built state, whose config is the
    user's own: the file's is only compared with it.
    """
    trusted = [package_of(state.run.method)]
    there = config.to_dict(config.from_dict(entries["config"], str(path), trusted))
    here = config.to_dict(state.run)
    for key, (theirs, ours) in sorted(differences(there, here).items()):
        if key not in RESUMABLE_KEYS:
            raise UserError(
                f"{path}: is of a run with another config ({key} is {shown(theirs)} there and"
                f" {shown(ours)} here)"
            )
    if shape_of(path, entries) != tuple(state.method.shape):
        raise UserError(
            f"{path}: its images are {entries['shape']} (channels, height, width), and the run's"
            f" are {list(state.method.shape)}"
        )
    load_weights(path, entries["method"], state.method)
    step = entries["step"]
    load_moments(path, entries["optimizer"], state.optimizer, state.run.optim.name, step)
    _restore_scaler(path, entries["scaler"], state.scaler)
    state.step, state.best, state.wandb_id = step, entries["best"], entries["wandb_id"]


def _restore_scaler(path: Path, held: Any, scaler: torch.amp.GradScaler | None) -> None:
    """The scale of a 16-mixed run as the file holds it; a file without one leaves a fresh scale."""
    if scaler is None or held == {}:
        return
    own = scaler.state_dict()
    if not (
        isinstance(held, dict)
        and held.keys() == own.keys()
        and all(type(held[key]) is type(value) for key, value in own.items())
        and all(math.isfinite(value) and value >= 0 for value in held.values())
    ):
        raise UserError(f"{path}: its gradient scaler is none")
    scaler.load_state_dict(held)


def load_weights(path: Path, weights: Any, method: Method) -> None:
    """Strict: every tensor of the method is in the file with the same shape and type and finite
    values, and nothing else is.
    """
    own = method.state_dict()
    _check_weights(path, weights, own)
    buffers = {name for name, _ in method.named_buffers()}
    if bad := not_finite(weights, buffers):
        raise UserError(f"{path}: {bad[0]} is not finite; {_mend(path)}")
    for key, value in own.items():
        mask = "mask" in key and value.dtype == torch.bool
        if mask and not torch.equal(weights[key], value.cpu()):
            raise UserError(f"{path}: '{key}' is a mask, and not the one of the method")
    parts = {key: shard_like(weights[key], value) for key, value in own.items()}
    try:
        method.load_state_dict(parts, strict=True)
    except RuntimeError as error:  # what a module of its own accord refuses
        raise UserError(f"{path}: {str(error).splitlines()[-1].strip()}") from None


def _check_weights(path: Path, weights: Any, own: dict[str, Tensor]) -> None:
    _same_keys(path, "weight", set(weights), set(own))
    for key, value in own.items():
        given = weights[key]
        if (
            not isinstance(given, Tensor)
            or given.shape != value.shape
            or given.dtype != value.dtype
        ):
            found = (
                f"{given.dtype} {list(given.shape)}" if isinstance(given, Tensor) else shown(given)
            )
            raise UserError(
                f"{path}: weight '{key}' should be {value.dtype} {list(value.shape)}, found {found}"
            )


def load_method(
    path: str | Path, device: torch.device | str = "cpu", trusted: Iterable[str] = ()
) -> Loaded:
    """The frozen method of a checkpoint in eval mode, with its config, step and digest, from the
    file alone.

    `trusted` names packages, beside the project's own, that its method may be a class of.
    """
    path = Path(path)
    entries = read(path)
    run = run_of(path, entries, trusted)
    method = build_for(path, entries, run)
    double = run.trainer.precision.startswith("64")
    load_weights(path, entries["method"], method.double() if double else method)
    if double:
        method.float()  # probes read features in float32
    method = method.eval().requires_grad_(False).to(device)
    return Loaded(method, run, entries["step"], entries.digest)


def build_for(path: Path, entries: dict[str, Any], run: config.RunConfig) -> Method:
    """A new method of the size of a checkpoint's weights: sizes that its config names and its
    weights do not have are refused before they are allocated.
    """
    weights = [value for value in entries["method"].values() if isinstance(value, Tensor)]
    size = sum(value.nbytes for value in weights)
    try:
        with budget(4 * size + SPARE, 10 * len(weights) + 500):
            return build_method(run, shape_of(path, entries))
    except OverBudget as error:
        raise UserError(
            f"{path}: its config asks for a network of {error}, and its weights are"
            f" {size / 2**20:,.1f} MiB"
        ) from None
    except UserError:
        raise
    # whatever a network's own code says of sizes that do not go together
    except Exception as error:
        raise UserError(
            f"{path}: its config makes no network ({type(error).__name__}: {error})"
        ) from None


def shape_of(path: Path, entries: dict[str, Any]) -> tuple[int, int, int]:
    """The image shape (C, H, W) that a checkpoint's method was built for."""
    channels, height, width = entries["shape"]
    return channels, height, width


def build_method(run: config.RunConfig, shape: tuple[int, int, int]) -> Method:
    """A new method with weights that are a function of `run.seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return config.method_class(run)(run.model, shape)


def whole_method(state: State) -> Method:
    """The state's method or, where processes share its weights, a whole copy, which any process may
    call without the others.

    To be called by all processes.
    """
    return (
        assemble(state.method, build_method(state.run, state.method.shape))
        if sharded(state.method)
        else state.method
    )


def digest(path: str | Path) -> str:
    """sha256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _same_keys(path: Path, what: str, found: set[str], expected: set[str]) -> None:
    missing, surplus = sorted(expected - found), sorted(map(str, found - expected))
    if missing or surplus:
        parts = [
            f"{len(keys)} {label} (first: '{keys[0]}')"
            for label, keys in (("missing", missing), ("surplus", surplus))
            if keys
        ]
        raise UserError(f"{path}: {what} keys do not match the method: {', '.join(parts)}")
