"""Reports on disk: strict JSON, signed with the key of the user who measured them."""

import contextlib
import fcntl
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import write_atomically
from core.run.signing import cache_folder, is_own, sign
from probes.probe import Probe
from probes.registry import PROBES
from probes.report.contradictions import contradiction
from probes.report.schema import FORMAT, Report, not_finite

AGAIN = "run `twobounds probe` again"
MOST_BYTES = 2**26
MOST_TEXT = 4096  # characters of one text
TEXTS = ("checkpoint", "digest", "method", "data")
PICTURES = (".png", ".svg", ".pdf")
LARGEST = 1e30  # the largest number of a probe that fits into a table
DEEPEST = 32  # nested parts
# errors of drawing and printing for values that are not a probe's numbers
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)
# among a probe's numbers: the keys whose values are texts, and (UNKNOWN) the keys whose values may
# be null, as the `schema` of the probe says
WORDS = {"quantity", "estimator", "side", "split", "unit", "augmentation", "verdict", "sentence"}
WORDS |= {"likelihood", "schedule", "transition", "factors", "estimators", "no_certificate"}
WORDS |= {"machine", "name"}
UNKNOWN = {"truth", "copies_left_out"}


def folder_of(checkpoint: Path) -> Path:
    """The folder of a checkpoint's reports: probe/ for last.ckpt, probe-best/ for best.ckpt."""
    name = "probe" if checkpoint.stem == "last" else f"probe-{checkpoint.stem}"
    return checkpoint.parent / name


def place(checkpoint: Path, identity: dict[str, Any], data: str) -> Path:
    """The folder of a report: `folder_of` the checkpoint or, if that holds a report on other data,
    a folder beside it whose name contains the data's name.
    """
    folder = folder_of(checkpoint)
    try:
        held = load(folder / "probe.json").get("identity", {})
    except UserError:
        return folder
    prints = _contents(identity["data"])
    if not isinstance(held, dict) or _contents(held.get("data")) == prints:
        return folder
    word = "".join(c if c.isalnum() else "-" for c in data)
    return folder.with_name(f"{folder.name}-{word}-{prints['test'][:8]}")


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write plain values as JSON, atomically."""
    return write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process at a time is inside, if the file system supports locks."""
    with open(folder / ".lock", "a") as file:
        with contextlib.suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def save(report: Report, path: Path) -> None:
    """Write a report, with this user's signature if there is a key."""
    assert not (bad := not_finite(report)), bad
    code = sign([_text(report)])
    write_json(path, report | ({"signature": code.hex()} if code else {}))


def load(path: Path, probes: dict[str, Probe] | None = None) -> Report:
    """Read a report of unknown origin. Raises `UserError` if the file is not a report, if the part
    of one of these probes does not have that probe's form, or if its numbers contradict each other.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: is larger than any report; {AGAIN}")
        report = json.loads(path.read_bytes(), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path}: damaged, or not a report; {AGAIN}") from None
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise UserError(f"{path}: not a report of the format {FORMAT}; {AGAIN}")
    texts = all(isinstance(report.get(key), str) for key in TEXTS)
    whole = all(type(report.get(key)) is int for key in ("step", "seed"))
    parts = all(isinstance(report.get(key), dict) for key in ("identity", "options", "absent"))
    if not (texts and whole and parts and _plain(report)):
        raise UserError(f"{path}: its content is not that of a report; {AGAIN}")
    for name, probe in (probes or {}).items():
        if name in report:
            try:
                check(probe, report[name])
                said = contradiction(report, name) if name in PROBES else ""
            except MALFORMED as error:
                raise damaged(path, name, error) from None
            if said:
                raise UserError(f"{path}: contradicts itself: {said}; {AGAIN}")
    return report


def damaged(path: Path | str, name: str, error: Exception) -> UserError:
    """The error for numbers that a probe can not show. A user's own probe may be at fault."""
    why = ""
    if name not in PROBES:
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        why = f", or the probe can not show it ({said})"
    return UserError(f"{path}: its part '{name}' is damaged{why}; {AGAIN}")


def find(target: Path) -> tuple[Path | None, list[Path]]:
    """The report that belongs to a path, or None; and the other reports of that run or checkpoint.

    The path is a run folder, the folder of a report, a checkpoint or a report file. The report of a
    run folder is that of last.ckpt, or the only one.
    """
    if os.path.isfile(target) and target.suffix == ".json":
        return target, []
    if os.path.isfile(target / "probe.json"):
        return target / "probe.json", []
    folder = target / "probe" if os.path.isdir(target) else folder_of(target)
    if not os.path.isdir(folder.parent):
        return None, []
    held = sorted(path for path in folder.parent.glob("probe*/probe.json") if path.is_file())
    if not os.path.isdir(target):  # for a checkpoint: its own reports, on all data
        others = f"{folder.name}-"
        held = [p for p in held if p.parent == folder or p.parent.name.startswith(others)]
        if folder.name == "probe":  # probe-best belongs to another checkpoint
            held = [p for p in held if not _of_another(p.parent)]
    if folder / "probe.json" in held:
        held.remove(folder / "probe.json")
        return folder / "probe.json", held
    return (held[0], []) if len(held) == 1 else (None, held)


def _of_another(folder: Path) -> bool:
    """Whether a folder probe-NAME belongs to NAME.ckpt beside it, and not to last.ckpt."""
    word = folder.name.removeprefix("probe-")
    return any(
        word == path.stem or word.startswith(f"{path.stem}-")
        for path in folder.parent.glob("*.ckpt")
        if path.stem != "last"
    )


def placed(report: Report, path: Path) -> Report:
    """A report with the "file" that it was read from, and with its checkpoint's present path: a run
    folder may have been moved or copied since it was probed.
    """
    path = path.resolve()
    checkpoint = path.with_suffix(".ckpt")
    if path.name == "probe.json" and path.parent.name.startswith("probe"):
        name = Path(report["checkpoint"]).name
        checkpoint = path.parent.parent / (name or "last.ckpt")
    return report | {"file": str(path), "checkpoint": str(checkpoint)}


def earlier(path: Path, report: Report) -> Report:
    """The report of an earlier call by this user, with the same weights, data, seed and versions;
    {} if there is none.

    No numbers are lost: any other report is renamed to an unused name. If it is of this user, its
    pictures are removed, because the new pictures have the same names.
    """
    if not path.is_file():
        return {}
    try:
        held = load(path)
    except UserError:
        _set_aside(path, "can not be read by this version", "unreadable")
        return {}
    code = held.pop("signature", "")
    if not is_own([_text(held)], bytes.fromhex(code) if _hexadecimal(code) else b""):
        if sign([]) is None:
            why = f"its writer is unknown, because {cache_folder()} holds no key"
            _set_aside(path, f"{why} (TWOBOUNDS_CACHE can name another folder)", "before")
        else:
            _set_aside(path, "was not written by this user", "of-others")
        return {}
    there, here = held["identity"], report["identity"]
    same = _contents(there.get("data")) == _contents(here["data"])
    rest = {key: value for key, value in here.items() if key != "data"}
    if same and there == rest | {"data": there.get("data")}:
        return held
    remove_pictures(path.parent)
    _set_aside(path, "belongs to other weights, data or versions, or to another seed", "earlier")
    return {}


def remove_pictures(folder: Path) -> None:
    """Remove the pictures of the report in a folder, because a new report replaces it. Only the
    pictures that the old report names are removed.
    """
    try:
        held = load(folder / "probe.json").get("pictures")
    except UserError:
        return
    for names in held.values() if isinstance(held, dict) else ():
        for name in names if isinstance(names, list) else ():
            if isinstance(name, str) and Path(name).name == name and name.endswith(PICTURES):
                with contextlib.suppress(OSError):
                    (folder / name).unlink()


def _set_aside(path: Path, why: str, word: str) -> None:
    """Rename a report, so that nothing overwrites it."""
    names = (f"probe-{word}{f'-{i}' if i else ''}.json" for i in itertools.count())
    kept = next(file for name in names if not os.path.lexists(file := path.with_name(name)))
    path.replace(kept)
    print(f"{path}: {why}; it is kept as {kept.name}")


def _contents(data: Any) -> dict[str, Any]:
    """Split -> fingerprint, which identifies the data without their path."""
    parts = data.items() if isinstance(data, dict) else ()
    return {split: part.get("fingerprint") for split, part in parts if isinstance(part, dict)}


def _text(report: Report) -> bytes:
    """The text that is signed: the report as JSON reads it back."""
    return json.dumps(json.loads(json.dumps(report)), sort_keys=True).encode()


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _hexadecimal(code: Any) -> bool:
    return isinstance(code, str) and len(code) == 64 and set(code) <= set("0123456789abcdef")


def check(probe: Probe, numbers: Any) -> None:
    """Raise one of `MALFORMED` if `numbers` are not what a probe measures."""
    if not isinstance(numbers, dict):
        raise TypeError("the numbers of a probe must be a dict")
    if probe.name in PROBES:
        _numbers(numbers)
    cells, values = probe.cells(numbers), probe.values(numbers)
    if not len(cells) == len(values) == len(probe.columns):
        counts = f"{len(probe.columns)} columns, {len(cells)} cells, {len(values)} values"
        raise ValueError(f"a table needs as many cells and values as columns: {counts}")
    if not all(isinstance(text, str) for text in [*cells, *probe.sentences(numbers)]):
        raise TypeError("cells and sentences must be texts")
    if not all(type(value) in (int, float) for value in probe.headline(numbers).values()):
        raise TypeError("the values of headline must be numbers")


def _numbers(held: Any, key: str = "") -> None:
    """Raise `ValueError` if a number is missing or can not be shown."""
    if isinstance(held, dict):
        for name, part in held.items():
            _numbers(part, key if key in WORDS else name)
    elif isinstance(held, list):
        for part in held:
            _numbers(part, key)
    elif key in WORDS:
        if not isinstance(held, str):
            raise ValueError
    elif held is None and key in UNKNOWN:
        pass
    elif (
        type(held) not in (int, float)
        or abs(held) > LARGEST
        or (key.partition("/")[0] == "top1" and not 0 <= held <= 1)
    ):
        raise ValueError


def _plain(held: Any, depth: int = 0) -> bool:
    """Whether all numbers and texts have a size that can be shown."""
    if depth > DEEPEST:
        return False
    if isinstance(held, dict):
        return all(_plain(key) and _plain(part, depth + 1) for key, part in held.items())
    if isinstance(held, list):
        return all(_plain(part, depth + 1) for part in held)
    if isinstance(held, str):
        return len(held) <= MOST_TEXT and held.isprintable()
    return held is None or abs(held) < 1e300
