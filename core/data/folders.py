"""Images in folders: DATA/SPLIT/CLASS/...; the class is the first folder below the split."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from torch.utils.data import Dataset

from core.data.notes import printable, say_once
from core.data.pixels import read_file, suffixes
from core.errors import UserError

SPLIT_WORDS = {  # split -> names of its folder, or words in a column of splits; case is ignored
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


class Folder(Dataset[tuple[bytes, int]]):
    """The files of one split as (bytes, label). Classes are in natural order ("2" before "10").

    These are left out, counted and reported in one line: hidden names, files whose extension is not
    one of Pillow's formats, broken links, special files, and files outside of the classes' folders.
    Raises `UserError` for a folder that can not be listed and for a class without images.
    """

    def __init__(self, root: Path, classes: tuple[str, ...] | None = None):
        """`classes`: those of the train split; a test split may lack some of them."""
        self.root = root
        left_out: dict[str, list[str]] = defaultdict(list)
        found = {
            entry.name: list(images_in(entry.path, left_out))
            for entry in _entries(root, left_out)
            if _is_folder(entry) or _leave(left_out, "outside the classes' folders", entry.path)
        }
        empty = sorted((name for name, files in found.items() if not files), key=natural)
        self._say(left_out, empty if classes else [])
        if empty and not classes:
            raise UserError(
                f"data.root: {printable(root / empty[0])} is a class without readable"
                f" images{counts(left_out)}; put images there or remove the folder"
            )
        if not any(found.values()):
            raise UserError(
                f"data.root: {printable(root)} holds no images{counts(left_out)};"
                f" name=folder expects {printable(root)}/CLASS/*.jpg, or pictures without labels"
            )
        self.classes = classes or tuple(sorted(found, key=natural))
        strange = sorted(found.keys() - set(self.classes), key=natural)
        if strange:
            raise UserError(
                f"data.root: {printable(root)} holds the class '{printable(strange[0])}', which the"
                " train split lacks; the folders of the train split define the classes"
            )
        number = {name: label for label, name in enumerate(self.classes)}
        every = [(path, number[name]) for name, files in found.items() for path in files]
        self.samples = sorted(every, key=lambda sample: natural(sample[0]))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        path, label = self.samples[index]
        return read_file(path), label

    def _say(self, left_out: dict[str, list[str]], empty: list[str]) -> None:
        if left_out:
            say_once(f"data.root: {printable(self.root)}: left out{counts(left_out)}")
        if empty:
            say_once(
                f"data.root: {printable(self.root)}: {len(empty)} classes have no images here, such"
                f" as '{printable(empty[0])}'"
            )


def split_folders(root: Path) -> dict[str, Path]:
    """Split -> its folder in ROOT, if ROOT has a train folder; else {}. Without a test folder, the
    val folder is the test split. `UserError` if two folders name the same split.
    """
    left_out: dict[str, list[str]] = defaultdict(list)
    entries = [e for e in _entries(root, left_out) if not e.name.startswith(".")]
    known = {word: split for split, words in SPLIT_WORDS.items() for word in words}
    found: dict[str, Path] = {}
    others: list[str] = []
    for entry in sorted(entries, key=lambda entry: natural(entry.name)):
        split = known.get(entry.name.lower()) if _is_folder(entry) else None
        if split in found:
            raise UserError(
                f"data.root: {printable(root)} holds '{printable(found[split].name)}' and"
                f" '{printable(entry.name)}', which both name the {split} split; rename one"
            )
        if split:
            found[split] = Path(entry.path)
        elif _is_folder(entry) or os.path.splitext(entry.name)[1].lower() in suffixes():
            others.append(entry.name)
    if "train" not in found:
        if found:
            name = next(iter(found.values())).name
            raise UserError(
                f"data.root: {printable(root)} holds a folder '{printable(name)}', but no folder"
                " 'train'; name=folder expects pictures in data.root, or in its folders train and"
                " test"
            )
        return {}
    if others:
        say_once(
            f"data.root: {printable(root)}: only the folders of its splits are read;"
            f" {len(others)} other folders or pictures are ignored, such as"
            f" '{printable(others[0], 60)}'"
        )
    if "test" not in found and "val" in found:
        found["test"] = found.pop("val")
        say_once(
            f"data.root: {printable(root)}: there is no folder 'test', so"
            f" '{printable(found['test'].name)}' is the test split"
        )
    return found


def natural(name: str) -> tuple[list[str | int], str]:
    """A sort key that compares digits as numbers, and case only as the last criterion."""
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def images_in(top: str, left_out: dict[str, list[str]]) -> Iterator[str]:
    """The paths of all images below a folder. No folder is read twice, even in a loop of links."""
    remaining, seen = [top], set()
    while remaining:
        folder = remaining.pop()
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            _leave(left_out, "links to a folder that was read already", folder)
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in _entries(folder, left_out):
            if _is_folder(entry):
                remaining.append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in suffixes():
                yield entry.path
            else:
                _leave(left_out, "not images", entry.path)


def _entries(folder: str | Path, left_out: dict[str, list[str]]) -> list[os.DirEntry[str]]:
    """The folders and regular files in a folder, without hidden ones."""
    try:
        with os.scandir(folder) as scan:
            entries = list(scan)
    except OSError as error:
        raise UserError(
            f"data.root: {printable(folder)} can not be listed ({error.strerror}); change its"
            " permissions, or remove the folder"
        ) from None
    kept = []
    for entry in entries:
        if entry.name.startswith("."):
            _leave(left_out, "hidden", entry.path)
        elif _exists(entry) is None:
            _leave(left_out, "links that lead nowhere", entry.path)
        elif not _exists(entry):
            _leave(left_out, "not regular files", entry.path)
        else:
            kept.append(entry)
    return kept


def _exists(entry: os.DirEntry[str]) -> bool | None:
    """Whether an entry is a folder or a regular file; None for a broken link."""
    try:
        return entry.is_dir() or entry.is_file() or (None if entry.is_symlink() else False)
    except OSError:
        return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir()


def _leave(left_out: dict[str, list[str]], reason: str, path: str) -> bool:
    left_out[reason].append(path)
    return False


def counts(left_out: dict[str, list[str]]) -> str:
    """For example " (1 hidden, such as .cache; 3 not images, such as notes.txt)"."""
    parts = [
        f"{len(paths)} {reason}, such as {printable(os.path.basename(min(paths)), 60)}"
        for reason, paths in sorted(left_out.items())
    ]
    return f" ({'; '.join(parts)})" if parts else ""
