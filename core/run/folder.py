"""A run folder: the config, data.json, checkpoints, metrics.jsonl and pictures of one run.

Checkpoints are last.ckpt and its predecessors last-1.ckpt and so on (together `trainer.keep_last`
files), best.ckpt and, with `trainer.keep_epochs` = n, one epoch-N.ckpt every n epochs.
"""

import errno
import fcntl
import functools
import json
import math
import time
import unicodedata
from pathlib import Path
from typing import IO, Any

from core.data.source import Source
from core.distributed import gather_round_robin
from core.errors import UserError
from core.files import write_atomically
from core.run import checkpoint, config
from core.run.belonging import require_own_best
from core.run.checkpoint import State
from core.run.provenance import changes, earlier_init, provenance
from core.run.resumable import LONGER, hindrances
from core.run.saver import Saver
from core.trust import package_of

# seconds that a resumed run waits for the lock of its folder. If a node that holds a lock dies, a
# file server needs 90 s to notice it.
LEASE = 120.0
NAME_ANOTHER = "name another folder=…"


def make_folder(path: Path, key: str, remedy: str) -> None:
    """Make a folder and its parents. A `UserError` names the option and the remedy."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}: {path} can not be made ({error.strerror}); {remedy}") from None


def home_expanded(path: str | Path, key: str) -> Path:
    """A user's path with ~ replaced by the home folder. A `UserError` names the option."""
    odd = next((c for c in str(path) if unicodedata.category(c) in ("Cc", "Cs")), None)
    if odd is not None:
        raise UserError(f"{key}: {str(path)[:100]!r} holds the character {odd!r}; remove it")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{key}: {path}: there is no home folder of that name; write ./~… if the folder itself"
            " has this name"
        ) from None


def picture_place(given: Path | None, out: Path, name: str) -> Path:
    """The path of a script's picture: `--picture`, or OUT/name. It must end in .png. Makes the
    folder OUT and the picture's folder.
    """
    picture = given or out / name
    if picture.suffix != ".png":
        raise UserError(f"--picture: {picture} should end in .png")
    make_folder(out, "--out", "name another")
    make_folder(picture.parent, "--picture", "name another")
    return picture


class RunFolder:
    """The files of one run, and the rules that protect a run from being overwritten."""

    def __init__(self, path: str | Path):
        self.path = home_expanded(path, "folder")
        self.last, self.best = self.path / "last.ckpt", self.path / "best.ckpt"
        self.config, self.data = self.path / "config.yaml", self.path / "data.json"
        self.metrics, self.pictures = self.path / "metrics.jsonl", self.path / "pictures"
        self.saver = Saver()
        self._lock: IO[str] | None = None
        self._damaged: list[Path] = []
        self._provenance: dict[str, Any] = {}

    def check(self, run: config.RunConfig) -> None:
        """Refuse a folder that holds another run, or this run if it is not resumed."""
        try:
            held = self.path.exists()
            self._refuse_obstacles()
        except OSError as error:
            raise UserError(
                f"folder: {str(self.path)[:100]} can not be used ({error.strerror}); {NAME_ANOTHER}"
            ) from None
        if held and not self.path.is_dir():
            raise UserError(f"folder: {self.path} is a file; {NAME_ANOTHER}")
        if not self.config.is_file():
            if self.versions():
                raise UserError(f"folder: {self.path} has no config.yaml; {NAME_ANOTHER}")
            return
        held_config = config.read(self.config, [], trusted=[package_of(run.method)])
        found = hindrances(config.to_dict(held_config), config.to_dict(run), run.resume)
        for key, (there, here) in sorted(found.items()):
            more = "; a resumed run can only train longer" if key == LONGER and run.resume else ""
            raise UserError(
                f"folder: {self.path} already holds a run with another config"
                f" ({key} is {there!r} there and {here!r} here){more}; {NAME_ANOTHER} or delete it"
            )
        if self.versions() and not run.resume:
            raise UserError(
                f"folder: {self.path} already holds this run; add --resume to continue it, or"
                f" {NAME_ANOTHER}"
            )

    def _refuse_obstacles(self) -> None:
        """`UserError` if a folder has the name of a file that the run writes, or vice versa."""
        kept = (self.config, self.data, self.metrics, self.last, self.best, self.path / ".lock")
        numbered = [*self.path.glob("last-*.ckpt"), *self.path.glob("epoch-*.ckpt")]
        for file in (*kept, *numbered):
            if file.is_dir():
                raise UserError(f"folder: {file} is a folder; remove it or {NAME_ANOTHER}")
        for place in (self.pictures, self.path / "profile"):
            if place.exists() and not place.is_dir():
                raise UserError(f"folder: {place} is a file; remove it or {NAME_ANOTHER}")

    def open(self, state: State, source: Source, first: bool) -> None:
        """Lock the folder, load its checkpoint to resume, and write the config. All processes must
        call it; `first` says whether this is the first one.
        """
        run = state.run
        if first:
            self.hold(LEASE if run.resume else 0.0)
            self.check_data(run, source, state.init)
        if run.resume:
            said = self.resume(state)
            if first:
                more = require_own_best(self.best, state)
                print(*filter(None, (said, more)), sep="\n", flush=True)
        if first:
            self.create(run)
            self.rewind_metrics(state.step)

    def check_data(self, run: config.RunConfig, source: Source, init: str = "") -> None:
        """Refuse changed training data, unless data.changed=accept. Only the first process calls
        this.

        `init`: the digest of the file that gave the first weights.
        """
        if self.versions():
            for line in changes(self.data, source.identity, run.data.changed == "accept"):
                print(line, flush=True)
        self._provenance = provenance(source.identity, init or earlier_init(self.data))

    def hold(self, patience: float = 0.0) -> None:
        """Lock the folder until `close`, or until this process ends. `UserError` if another process
        still holds the lock after `patience` seconds. On a file system without locks, this locks
        nothing and raises no error.
        """
        make_folder(self.path, "folder", NAME_ANOTHER)
        ends = time.monotonic() + patience
        try:
            self._lock = open(self.path / ".lock", "a")  # noqa: SIM115  workers do not inherit it
            if patience and not _locked(self._lock):
                waits = f"waiting {patience:.0f} s for it to end"
                print(f"{self.path}: another process trains in this folder; {waits}", flush=True)
            while not _locked(self._lock) and time.monotonic() < ends:
                time.sleep(1.0)
            if not _locked(self._lock):
                raise BlockingIOError
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"folder: another process trains in {self.path}, or the folder is not yours; end"
                f" that process, or {NAME_ANOTHER}"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise

    def close(self) -> None:
        """Wait for an unfinished save, and unlock the folder, so that this process can start
        another run in it.
        """
        try:
            self.saver.wait()
        finally:
            if self._lock is not None:
                self._lock.close()

    def create(self, run: config.RunConfig) -> None:
        """Make the folder, remove half-written files of a killed process, and write the config."""
        make_folder(self.pictures, "folder", NAME_ANOTHER)
        for half in self.path.glob(".*.tmp"):
            if not half.is_dir():  # no run makes a folder of such a name
                half.unlink(missing_ok=True)
        text = config.to_yaml(run)
        write_atomically(self.config, lambda temporary: temporary.write_text(text, "utf-8"))
        if self._provenance:
            facts = json.dumps(self._provenance, indent=1)
            write_atomically(self.data, lambda temporary: temporary.write_text(facts, "utf-8"))

    def save(
        self,
        state: State,
        steps_per_epoch: int,
        last: bool = True,
        best: bool = False,
        wait: bool = True,
    ) -> None:
        """Write last.ckpt and, when it is due, an epoch-N.ckpt (`last`), and best.ckpt (`best`).

        Without `wait`, a thread writes while training continues, and `saver` reports its errors.
        All processes must call it.
        """
        trainer, places = state.run.trainer, [(self.best, 1)] if best else []
        if last:
            places.append((self.last, trainer.keep_last))
            every = trainer.keep_epochs * steps_per_epoch
            if every and state.step and state.step % every == 0:
                epoch = state.step // steps_per_epoch
                places.append((self.path / f"epoch-{epoch}.ckpt", 1))
        if (held := checkpoint.snapshot(state)) is not None:
            self.saver.submit(functools.partial(self._write, held, places))
            if wait:
                self.saver.wait()

    def _write(self, held: checkpoint.Snapshot, places: list[tuple[Path, int]]) -> None:
        while self._damaged:
            # otherwise the damaged file would be kept, and the last whole one would be deleted
            self._damaged.pop().unlink(missing_ok=True)
        for path, keep in places:
            checkpoint.write(path, held, keep)

    def resume(self, state: State) -> str:
        """Load the newest whole checkpoint; returns a line that names it and damaged newer ones.

        Raises `Damaged` if none is whole. Damaged files stay until the next `save`. All processes
        must call it, because they must find the same step.
        """
        said = self._load_newest(state)
        if len(steps := set(gather_round_robin([state.step]))) > 1:
            found = ", ".join(map(str, sorted(steps)))
            raise UserError(
                f"folder: processes found checkpoints of the steps {found} in {self.path}; it must"
                " be one folder that all nodes see"
            )
        return said

    def _load_newest(self, state: State) -> str:
        errors: list[checkpoint.Damaged] = []
        for path in self.versions():
            try:
                checkpoint.restore(path, checkpoint.read(path), state)
            except checkpoint.Damaged as error:
                errors.append(error)
                self._damaged.append(path)
                continue
            why = "".join(f"; {str(error).split(';')[0]}" for error in errors)
            return f"resuming {self.path} at step {state.step} from {path.name}{why}"
        if errors:
            raise checkpoint.Damaged(
                f"{str(errors[0]).split(';')[0]}, and so are the earlier ones; to continue from"
                f" best.ckpt or an epoch-N.ckpt, copy it to {self.last}"
            )
        return f"{self.path} holds no checkpoint yet: starting from the beginning"

    def versions(self) -> list[Path]:
        """last.ckpt and its predecessors, newest first. After a kill last.ckpt may be missing."""
        stems = {path: path.stem[5:] for path in self.path.glob("last-*.ckpt")}
        numbered = {int(number): path for path, number in stems.items() if number.isdigit()}
        paths = [self.last, *(numbered[number] for number in sorted(numbered))]
        return [path for path in paths if path.is_file()]

    def rewind_metrics(self, step: int) -> None:
        """Drop the lines after `step`, which a resumed run writes again, and all invalid lines."""
        lines = self.metrics.read_bytes().split(b"\n") if self.metrics.exists() else []
        kept = b"".join(line + b"\n" for line in lines if _step_of(line) <= step)
        write_atomically(self.metrics, lambda temporary: temporary.write_bytes(kept))

    def append_metrics(self, values: dict[str, float]) -> None:
        """Append one JSON line that begins with "step", without numbers that are not finite."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        try:
            with open(self.metrics, "a", encoding="utf-8") as file:
                file.write(json.dumps(finite) + "\n")
        except OSError as error:
            raise UserError(f"{self.metrics}: could not be written ({error.strerror})") from None


def _step_of(line: bytes) -> float:
    """The step of a line of metrics.jsonl; infinity for any other line."""
    try:
        step = json.loads(line)["step"]
    # RecursionError: nested too deep; ValueError: no JSON, no text, an integer of 5,000 digits
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return math.inf
    return step if type(step) is int and step >= 0 else math.inf


def _locked(file: IO[str]) -> bool:
    """Try to lock a file. Returns whether this process holds the lock now; the lock stays until the
    file is closed.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
