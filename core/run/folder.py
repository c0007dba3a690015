"""A run folder: the resolved config, data.json, checkpoints, metrics.jsonl and pictures. One folder
holds one run.

Of checkpoints it keeps last.ckpt and, as last-1.ckpt, the one before it (`trainer.keep_last` in
all), best.ckpt, and with `trainer.keep_epochs` = n every n epochs one that stays, epoch-N.ckpt.
"""

import errno
import fcntl
import json
import math
import time
import unicodedata
from pathlib import Path
from typing import IO, Any

from core.data.source import Source
from core.distributed import gather_round_robin, rank
from core.errors import UserError
from core.files import write_atomically
from core.method import package_of
from core.run import checkpoint, config
from core.run.checkpoint import State
from core.run.provenance import changes, provenance
from core.run.resumable import RESUMABLE_KEYS, differences

# seconds that a resumed run waits for its folder: a server of files takes 90 to see that a node
# which held a lock is dead
LEASE = 120.0


def make_folder(path: Path, key: str, mend: str) -> None:
    """The folder and those above it; a `UserError` names the option and the mend where that can not
    be.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}: {path} can not be made ({error.strerror}); {mend}") from None


def home_expanded(path: str | Path, key: str) -> Path:
    """A path that a person gave, with ~ replaced by the home folder; a `UserError` names the option
    where it can be no path.
    """
    odd = next((c for c in str(path) if unicodedata.category(c) in ("Cc", "Cs")), None)
    if odd is not None:
        raise UserError(
            f"{key}: {str(path)[:100]!r} holds the character {odd!r}, which is none for a name"
        )
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{key}: {path}: there is no home folder of that name; write ./~… for a folder that is"
            " called so"
        ) from None


def picture_place(given: Path | None, out: Path, name: str) -> Path:
    """Where a script's picture goes: what `--picture` gave, or OUT/name. Makes both folders;
    `UserError` where it is no PNG.
    """
    picture = given or out / name
    if picture.suffix != ".png":
        raise UserError(f"--picture: {picture} should end in .png")
    make_folder(out, "--out", "name another")
    make_folder(picture.parent, "--picture", "name another")
    return picture


class RunFolder:
    """The files of one run, and the rules that keep a run from being overwritten."""

    def __init__(self, path: str | Path):
        self.path = home_expanded(path, "folder")
        self.last, self.best = self.path / "last.ckpt", self.path / "best.ckpt"
        self._damaged: list[Path] = []
        self._provenance: dict[str, Any] = {}
        self.data = self.path / "data.json"
        self.config, self.metrics, self.pictures = (
            self.path / "config.yaml",
            self.path / "metrics.jsonl",
            self.path / "pictures",
        )

    def check(self, run: config.RunConfig) -> None:
        """Refuse, before anything is written, a folder that holds another run, or this one when it
        is not resumed.
        """
        try:
            held = self.path.exists()
            self._refuse_what_is_in_the_way()
        except OSError as error:
            raise UserError(
                f"folder: {str(self.path)[:100]} can not be used ({error.strerror}); name another"
                " folder=…"
            ) from None
        if held and not self.path.is_dir():
            raise UserError(f"folder: {self.path} is a file; name another folder=…")
        if not self.config.is_file():
            if self.versions():
                raise UserError(
                    f"folder: {self.path} holds a checkpoint without its config.yaml; name"
                    " another folder=…"
                )
            return
        held_config = config.read(self.config, [], trusted=[package_of(run.method)])
        found = differences(config.to_dict(held_config), config.to_dict(run))
        for key, (there, here) in sorted(found.items()):
            if key not in RESUMABLE_KEYS:
                raise UserError(
                    f"folder: {self.path} already holds a run with another config"
                    f" ({key} is {there!r} there and {here!r} here); name another folder=… or"
                    " delete it"
                )
        if self.versions() and not run.resume:
            raise UserError(
                f"folder: {self.path} already holds this run; add --resume to go on with it, or"
                " name another folder=…"
            )

    def _refuse_what_is_in_the_way(self) -> None:
        """Raise `UserError` where a folder has the name of one of the run's files, or a file that
        of one of its folders.
        """
        kept = (self.config, self.data, self.metrics, self.last, self.best, self.path / ".lock")
        numbered = [*self.path.glob("last-*.ckpt"), *self.path.glob("epoch-*.ckpt")]
        for file in (*kept, *numbered):
            if file.is_dir():
                raise UserError(
                    f"folder: {file} is a folder, and a run keeps a file there; remove it or name"
                    " another folder=…"
                )
        for place in (self.pictures, self.path / "profile"):
            if place.exists() and not place.is_dir():
                raise UserError(
                    f"folder: {place} is a file, and a run keeps a folder there; remove it or name"
                    " another folder=…"
                )

    def open(self, state: State, source: Source, first: bool) -> None:
        """Hold the folder, load what it has where the run is resumed, and write the config. To be
        called by all processes; the `first` writes and speaks.
        """
        run = state.run
        if first:
            self.hold(LEASE if run.resume else 0.0)
            self.check_data(run, source)
        if run.resume:
            said = self.resume(state)
            if first:
                print(said, flush=True)
        if first:
            self.create(run)
            self.rewind_metrics(state.step)

    def check_data(self, run: config.RunConfig, source: Source) -> None:
        """Refuse to go on with a run whose train split was another, unless data.changed=accept, and
        say what has changed. `create` then writes data.json. To be called by the first process.
        """
        if self.versions():
            for line in changes(self.data, source.identity, run.data.changed == "accept"):
                print(line, flush=True)
        self._provenance = provenance(source.identity)

    def hold(self, patience: float = 0.0) -> None:
        """Keep other processes out until this one ends; `UserError` where one is still in after
        `patience` seconds.

        A file system without locks keeps nobody out.
        """
        make_folder(self.path, "folder", "name another folder=…")
        ends = time.monotonic() + patience
        try:
            self._lock = open(self.path / ".lock", "a")  # noqa: SIM115  of the process: no decoding worker that outlives it holds it
            if patience and not _locked(self._lock):
                print(
                    f"{self.path}: another process trains here; waiting {patience:.0f} s for it"
                    " to end",
                    flush=True,
                )
            while not _locked(self._lock) and time.monotonic() < ends:
                time.sleep(1.0)
            if not _locked(self._lock):
                raise BlockingIOError
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"folder: another process trains in {self.path} or it is not yours; end it, or"
                " name another folder=…"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise

    def create(self, run: config.RunConfig) -> None:
        """Make the folder and write the resolved config. What a killed write left half done is
        removed.
        """
        make_folder(self.pictures, "folder", "name another folder=…")
        for half in self.path.glob(".*.tmp"):
            if not half.is_dir():  # a folder is not ours
                half.unlink(missing_ok=True)
        text = config.to_yaml(run)
        write_atomically(self.config, lambda temporary: temporary.write_text(text, "utf-8"))
        if self._provenance:
            facts = json.dumps(self._provenance, indent=1)
            write_atomically(self.data, lambda temporary: temporary.write_text(facts, "utf-8"))

    def save(self, state: State, steps_per_epoch: int) -> None:
        """Write last.ckpt, keep those before it, and every so many epochs one that stays. To be
        called by all processes.
        """
        trainer = state.run.trainer
        while rank() == 0 and self._damaged:
            self._damaged.pop().unlink(
                missing_ok=True
            )  # else it would push out the whole one before it
        checkpoint.save(self.last, state, trainer.keep_last)
        if (
            trainer.keep_epochs
            and state.step
            and state.step % (trainer.keep_epochs * steps_per_epoch) == 0
        ):
            checkpoint.save(self.path / f"epoch-{state.step // steps_per_epoch}.ckpt", state)

    def resume(self, state: State) -> str:
        """Load the newest checkpoint that is whole into the state; the line that says which it was,
        and what was wrong with newer ones.

        Raises `Damaged` where none is whole. Damaged ones stay until the next `save`. To be called
        by all processes, for what each of them finds has to be the same.
        """
        said = self._load_newest(state)
        if len(steps := set(gather_round_robin([state.step]))) > 1:
            raise UserError(
                "folder: processes found checkpoints of the steps"
                f" {', '.join(map(str, sorted(steps)))} in {self.path};"
                " it has to be one folder that every node sees"
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
                f"{str(errors[0]).split(';')[0]}, as are those before it; copy best.ckpt or an"
                " epoch-N.ckpt"
                f" to {self.last} to go on from there"
            )
        return f"{self.path} holds no checkpoint yet: starting from the beginning"

    def versions(self) -> list[Path]:
        """last.ckpt and those before it, newest first; last.ckpt alone may be missing, after a kill
        at a bad moment.
        """
        numbered = {
            int(path.stem[5:]): path
            for path in self.path.glob("last-*.ckpt")
            if path.stem[5:].isdigit()
        }
        return [
            path
            for path in (self.last, *(numbered[number] for number in sorted(numbered)))
            if path.is_file()
        ]

    def rewind_metrics(self, step: int) -> None:
        """Drop the logged lines after `step`: a resumed run writes them again, so that no step
        stands twice. What is no line of a run goes, too, such as one that a kill has cut short.
        """
        lines = self.metrics.read_bytes().split(b"\n") if self.metrics.exists() else []
        kept = b"".join(line + b"\n" for line in lines if _step_of(line) <= step)
        write_atomically(self.metrics, lambda temporary: temporary.write_bytes(kept))

    def append_metrics(self, values: dict[str, float]) -> None:
        """One JSON line; its "step" comes first. A number that is not finite is no JSON and is left
        out.
        """
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        try:
            with open(self.metrics, "a", encoding="utf-8") as file:
                file.write(json.dumps(finite) + "\n")
        except OSError as error:
            raise UserError(f"{self.metrics}: could not be written ({error.strerror})") from None


def _step_of(line: bytes) -> float:
    """The step of a line of metrics.jsonl; infinity for what is no such line."""
    try:
        step = json.loads(line)["step"]
    # RecursionError: nested a thousand times; ValueError: no JSON, no text, 5,000 digits
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return math.inf
    return step if type(step) is int and step >= 0 else math.inf


def _locked(file: IO[str]) -> bool:
    """Whether this process has a lock on a file, which it tries to get; once it has, it keeps
    it.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
