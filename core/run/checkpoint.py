"""A checkpoint is a `State` on disk: config, method, optimiser and step in one file, written
atomically.

The file is torch's zip, whose every record carries a CRC-32. torch.load does not look at it; `read`
does, so that a flipped bit is damage and not a slightly other network. Every checkpoint that
torch.save ever wrote has these checksums, older ones of ours too.

Loading never unpickles code (`weights_only=True`), is strict about keys and shapes, and finds
methods by name only in the project's own rooms, so that a file from a stranger can not run
anything.
"""

from core.distributed import rank
from core.errors import UserError
from core.method import Method
from core.run import config
from core.run.finite import require_finite
from core.run.sharding import assemble, gather_full, shard_like, shard_moments, sharded

import hashlib
import math
import os
import pickle
import secrets
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

FORMAT = "twobounds/1"
MEND = "use another one of the same run, such as last-1.ckpt or best.ckpt"
ENTRIES = {"format", "config", "shape", "method", "optimizer", "step", "best", "wandb_id", "scaler"}


@dataclass
class State:
    """All that a run is. Randomness is a function of (seed, step), so there is no generator state
    to keep.
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
        "step": state.step,
        "best": state.best,
        "wandb_id": state.wandb_id,
        "scaler": state.scaler.state_dict() if state.scaler else {},
    }

    def write(temporary: Path) -> None:
        with (
            open(temporary, "wb") as file
        ):  # torch, given a path, would say that a disk is full without the system's own error
            torch.save(entries, file)

    write_atomically(path, write, keep)


def earlier(path: Path, versions: int) -> Path:
    """Where the checkpoint that was `path` so many saves ago is kept: last.ckpt, last-1.ckpt,
    ...
    """
    return path.with_stem(f"{path.stem}-{versions}") if versions else path


def write_atomically(path: Path, write: Callable[[Path], object], keep: int = 1) -> None:
    """Call `write(temporary)`, sync, and rename the result to `path`, so that no reader ever sees
    half a file, nor after a power cut.

    Of what was there before, `keep` - 1 versions stay, at every moment. Once there is a file called
    `path`, there always is one (on a file system that knows hard links).
    """
    temporary, linked = (
        path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp") for _ in range(2)
    )
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if keep > 1:
            _shift(path, linked, keep)
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the names, too, are on the disk now
        finally:
            os.close(folder)
        if keep > 1:
            earlier(path, keep).unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        cause = (
            error if isinstance(error, OSError) else error.__context__
        )  # torch.save wraps what the system said
        if not isinstance(cause, OSError):
            raise
        raise UserError(
            f"{path}: could not be written ({cause.strerror or cause}); free some space or change"
            " `folder`"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
        linked.unlink(missing_ok=True)


def _shift(path: Path, linked: Path, keep: int) -> None:
    """Make room: what is `path` is its own earlier version, too. The oldest goes only when the new
    one has its name, after this.
    """
    first = earlier(path, 1)
    if not path.exists() or (
        first.exists() and first.samefile(path)
    ):  # the same: a kill came between this and the renaming
        return
    kept = next(
        versions
        for versions in range(1, keep + 1)
        if versions == keep or not earlier(path, versions).exists()
    )
    for versions in range(kept - 1, 0, -1):
        os.replace(earlier(path, versions), earlier(path, versions + 1))
    try:
        os.link(path, linked)
        os.replace(linked, first)
    except OSError:  # a file system without hard links
        os.replace(path, first)


def read(path: Path) -> Entries:
    """The checked entries of a checkpoint, on the CPU, with the digest of the file they were read
    from. A `UserError` says what is wrong with the file, `Damaged` that it is not whole.

    The file is read once: another process may replace it at any moment, and a digest of other bytes
    would name other weights.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        content = path.read_bytes()
        with zipfile.ZipFile(BytesIO(content)) as file:
            folders = (
                record.filename for record in file.infolist() if record.external_attr & 0x10
            )  # read as empty: memory as it was
            if broken := file.testzip() or next(folders, None):
                raise Damaged(
                    f"{path}: damaged, the checksum of its record {broken} is wrong; {MEND}"
                )
        entries = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: refused, it holds something other than tensors and plain values"
        ) from None
    except PermissionError as error:
        raise UserError(f"{path}: can not be read ({error.strerror})") from None
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ):
        raise Damaged(f"{path}: damaged or no checkpoint; {MEND}") from None
    if not isinstance(entries, dict) or entries.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of the format {FORMAT}")
    entries.setdefault("scaler", {})  # older files have none
    _same_keys(path, "entry", set(entries), ENTRIES)
    return Entries(entries, hashlib.sha256(content).hexdigest())


def run_of(path: Path, entries: dict[str, Any]) -> config.RunConfig:
    """The config that a checkpoint holds, checked as a YAML file would be."""
    return config.from_dict(entries["config"], str(path))


def restore(path: Path, entries: dict[str, Any], state: State) -> None:
    """Put a checkpoint's method, optimiser and step into a freshly built state."""
    load_weights(path, entries["method"], state.method)
    try:
        state.optimizer.load_state_dict(shard_moments(entries["optimizer"], state.optimizer))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: its optimizer does not fit the config ({error})") from None
    _restore_scaler(path, entries["scaler"], state.scaler)
    state.step, state.best, state.wandb_id = (
        int(entries["step"]),
        float(entries["best"]),
        str(entries["wandb_id"]),
    )


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
    """Strict: every tensor of the method is in the file with the same shape, and nothing else
    is.
    """
    if not isinstance(weights, dict):
        raise UserError(f"{path}: holds no method weights")
    own = method.state_dict()
    _same_keys(path, "weight", set(weights), set(own))
    for key, value in own.items():
        given = weights[key]
        if (
            not isinstance(given, Tensor)
            or given.shape != value.shape
            or given.dtype != value.dtype
        ):
            found = (
                f"{given.dtype} {list(given.shape)}"
                if isinstance(given, Tensor)
                else type(given).__name__
            )
            raise UserError(
                f"{path}: weight '{key}' should be {value.dtype} {list(value.shape)}, found {found}"
            )
    method.load_state_dict(
        {key: shard_like(weights[key], value) for key, value in own.items()}, strict=True
    )


def load_method(path: str | Path, device: torch.device | str = "cpu") -> Loaded:
    """The frozen method of a checkpoint in eval mode, with its config, step and digest, from the
    file alone.
    """
    path = Path(path)
    entries = read(path)
    run = run_of(path, entries)
    method = build_method(run, shape_of(path, entries))
    double = run.trainer.precision.startswith("64")
    load_weights(path, entries["method"], method.double() if double else method)
    if double:
        method.float()  # probes read features in float32
    method = method.eval().requires_grad_(False).to(device)
    return Loaded(method, run, int(entries["step"]), entries.digest)


def shape_of(path: Path, entries: dict[str, Any]) -> tuple[int, int, int]:
    """The image shape (C, H, W) that a checkpoint's method was built for."""
    shape = entries["shape"]
    if not (
        isinstance(shape, list)
        and len(shape) == 3
        and all(isinstance(n, int) and 0 < n <= 4096 for n in shape)
    ):
        raise UserError(f"{path}: its image shape {shape!r} is no (channels, height, width)")
    return shape[0], shape[1], shape[2]


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
