"""A user's own pictures: folders with or without classes, or a list of files.

n = pictures, F = label columns.
"""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from core.data.folders import Folder, counts, images_in, natural, split_folders
from core.data.held_out import MOST_TEST, held_out
from core.data.lists import read_list
from core.data.notes import printable, say_once
from core.data.pixels import read_file, suffixes
from core.errors import UserError, nearest
from core.numbers import means_unlabelled
from core.randomness import KeyedRNG

WAYS = ("auto", "folders", "none")  # values of data.labels for folders


class Pictures(Dataset[tuple[bytes, int]]):
    """The pictures of all splits as (bytes, 0); their labels are in `table`.

    `places`: split -> the numbers of its pictures. The splits are "train", "test" and, if the data
    have a validation split, "val".
    """

    def __init__(
        self,
        root: Path,
        paths: list[str],
        columns: dict[str, list[str]],
        places: dict[str, Tensor],
    ):
        """`columns`: label column -> the label of each picture. Classes are those of train (and
        val), in natural order; `UserError` for any other class in test.
        """
        self.root, self.places = root, places
        self.samples = [(path, 0) for path in paths]
        # the captions of each picture, if they are known: one text, or several
        self.captions: list[str] | list[str | tuple[str, ...]] | None = None
        self.factors: dict[str, int] = {}
        self.classes: tuple[str, ...] = ()
        self.table = torch.zeros(len(paths), len(columns), dtype=torch.int64)
        known = [int(i) for part in ("train", "val") if part in places for i in places[part]]
        for number, (name, values) in enumerate(columns.items()):
            classes = sorted({values[i] for i in known}, key=natural)
            code = {value: label for label, value in enumerate(classes)}
            if means_unlabelled(values):
                raise UserError(
                    f"data.labels: {printable(paths[values.index('-1')])} has {name} = -1, which"
                    " usually means that it has no label; leave such pictures out, or set"
                    " data.labels=none. If it is a class, give it a name or the next number"
                )
            for value in values:
                if value not in code:
                    raise UserError(
                        f"data.labels: no training picture has {name} = {printable(value, 60)!r},"
                        f" which a test picture has{nearest(value, classes)}"
                    )
            self.table[:, number] = torch.tensor([code[value] for value in values])
            self.factors[name] = len(classes)
            one = len(columns) == 1
            self.classes += tuple(value if one else f"{name}: {value}" for value in classes)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        path, label = self.samples[index]
        return read_file(path), label

    def files(self, chosen: Tensor) -> tuple[str | Path, list[tuple[str, Any]]] | None:
        """The top folder and the files that hold the chosen pictures, each with its labels; None
        if the pictures are recognised in another way.
        """
        columns = self.table.tolist()
        return self.root, [(self.samples[i][0], columns[i]) for i in chosen.tolist()]

    def part(self, split: str, validation: int | float | str) -> Tensor:
        """The places of a split, int64 [n]. "val" is held out of train if it is not given, or if
        `validation` is a number or a share.
        """
        train, val = self.places["train"], self.places.get("val")
        if split == "test":
            return self.places["test"]
        if val is not None:
            said = f"{printable(self.root)} has its own validation split of {len(val):,} pictures"
            if validation != "auto":
                said += f"; it is not used, because {validation} is held out of train instead"
                said += " (data.validation=auto would use it)"
            say_once(f"data.validation: {said}")
        if val is None or validation != "auto":
            count = held_out(validation, len(train))
            order = KeyedRNG(0, 0).permutation("validation split", len(train))
            train, val = train[order[count:].sort().values], train[order[:count].sort().values]
        return {"train": train, "val": val, "trainval": torch.cat([train, val])}[split]


def open_pictures(
    root: Path, listed: str = "", labels: str = "auto", captions: str = ""
) -> Pictures:
    """The pictures below `root`, or those of a list.

    If there is ROOT/train, then ROOT/train, ROOT/test and ROOT/val are the splits (other names:
    `core.data.folders.SPLIT_WORDS`), and the folders in a split are its classes. Without
    ROOT/train, the folders in ROOT are classes if there are two or more and no pictures beside
    them. Otherwise the pictures have no labels. The values "folders" and "none" of `labels` replace
    these rules. Without ROOT/test and ROOT/val, a tenth of the training pictures, at most 10,000,
    is the test split.
    """
    if listed:
        return _listed(root, listed, labels, captions)
    if labels not in WAYS:
        raise UserError(
            f"data.labels: '{labels}' is not one of {', '.join(WAYS)}; to use columns of a list,"
            " set data.list"
        )
    if not root.is_dir():
        raise UserError(
            f"data.root: there is no folder {printable(root)}; name=folder expects pictures in it,"
            " or in its folders train and test"
        )
    folders = split_folders(root)
    tops = folders or {"train": root}
    if labels == "folders" or labels == "auto" and _has_classes(tops["train"], bool(folders)):
        made, doubted = _by_class(root, tops), labels == "auto" and not folders
        said = f"{len(made):,} pictures in {len(made.classes)} classes"
        said += " (if its folders are not classes, set data.labels=none)" if doubted else ""
    else:
        made = _without_classes(root, tops)
        said = f"{len(made):,} pictures without labels"
    quiet = "class" in made.factors and "test" in folders
    return cut(made, "" if quiet else f"data.root: {printable(root)}: {said}")


def _has_classes(top: Path, divided: bool) -> bool:
    """Whether the folders in `top` are classes. With ROOT/train, any folder is a class. Without it,
    there must be at least two folders, and no pictures beside them.
    """
    try:
        seen = [entry for entry in os.scandir(top) if not entry.name.startswith(".")]
    except OSError:
        return True  # reading it will say why
    folders = [entry for entry in seen if entry.is_dir()]
    loose = [e for e in seen if os.path.splitext(e.name)[1].lower() in suffixes()]
    return bool(folders) if divided else len(folders) > 1 and not loose


def _by_class(root: Path, tops: dict[str, Path]) -> Pictures:
    """TOP/CLASS/... of each split; the classes are those of train."""
    train = Folder(tops["train"])
    parts = {"train": train}
    parts |= {name: Folder(top, train.classes) for name, top in tops.items() if name != "train"}
    labels = [train.classes[label] for part in parts.values() for _, label in part.samples]
    paths = {name: [path for path, _ in part.samples] for name, part in parts.items()}
    return _together(root, paths, {"class": labels})


def _without_classes(root: Path, tops: dict[str, Path]) -> Pictures:
    """The pictures of each split, without labels."""
    return _together(root, {name: _all(top) for name, top in tops.items()}, {})


def _together(root: Path, paths: dict[str, list[str]], columns: dict[str, list[str]]) -> Pictures:
    """The pictures of all splits, one split after the other."""
    places, start = {}, 0
    for name, found in paths.items():
        places[name] = torch.arange(start, start + len(found))
        start += len(found)
    return Pictures(root, [path for found in paths.values() for path in found], columns, places)


def _all(top: Path) -> list[str]:
    """Every picture below a folder, in natural order."""
    left_out: dict[str, list[str]] = defaultdict(list)
    paths = sorted(images_in(str(top), left_out), key=natural)
    if not paths:
        raise UserError(
            f"data.root: {printable(top)} holds no images{counts(left_out)}; name=folder expects"
            f" pictures, {printable(top)}/train/CLASS/*.jpg, or a data.list"
        )
    if left_out:
        say_once(f"data.root: {printable(top)}: left out{counts(left_out)}")
    return paths


def cut(pictures: Pictures, said: str) -> Pictures:
    """The same pictures with a test split. If it is missing, it is cut from train by a permutation
    with a fixed seed.
    """
    train = pictures.places["train"]
    if "test" not in pictures.places:
        if len(train) < 3:
            raise UserError(
                f"data.root: {len(train)} pictures can not be divided into train, val and test"
            )
        count = held_out("auto", len(train), MOST_TEST)
        order = KeyedRNG(0, 0).permutation("test split", len(train))
        pictures.places["test"] = train[order[:count].sort().values]
        pictures.places["train"] = train[order[count:].sort().values]
        said += f"; there is no test split, so {count:,} of them become the test split"
    if said:
        say_once(said)
    return pictures


def _listed(root: Path, listed: str, labels: str, captions: str) -> Pictures:
    """The pictures of a list; a path is relative to `root`, or else to the folder of the list."""
    if labels == "folders":
        raise UserError("data.labels: a list has columns; name them, or set auto or none")
    file = next((path for path in (root / listed, Path(listed)) if path.is_file()), root / listed)
    rows = read_list(file, labels, captions)
    tops = [root, file.resolve().parent]
    top = next((top for top in tops if os.path.isfile(os.path.join(top, rows.paths[0]))), root)
    paths = [os.path.join(top, path) for path in rows.paths]
    lost = [path for path in paths if not os.path.isfile(path)]
    if lost:
        raise UserError(
            f"data.list: {len(lost):,} of {len(paths):,} pictures of {printable(file)} do not"
            f" exist, such as {printable(lost[0])}; paths are relative to data.root"
        )
    columns = "".join(f", {name}" for name in rows.labels)
    known = f"labels{columns.replace(',', ':', 1)}" if columns else "no labels"
    said = f"data.list: {printable(file)}: {len(paths):,} pictures, {known}"
    if rows.others:
        said += f" (other columns: {printable(', '.join(rows.others))}; data.labels names labels)"
    places = {"train": torch.arange(len(paths))}
    if rows.splits is not None:
        places, more = _places(rows.splits, paths, file)
        said += more
    pictures = Pictures(top, paths, rows.labels, places)
    pictures.captions = rows.captions
    return cut(pictures, said)


def _places(splits: list[str], paths: list[str], file: Path) -> tuple[dict[str, Tensor], str]:
    """The pictures of each split that the list names, and a text for the user."""
    number = torch.tensor([("train", "val", "test").index(split) for split in splits])
    found = {
        name: (number == i).nonzero()[:, 0]
        for i, name in enumerate(("train", "val", "test"))
        if (number == i).any()
    }
    seen: dict[str, str] = {}
    for path, split in zip(paths, splits, strict=True):
        if seen.setdefault(os.path.realpath(path), split) != split:
            raise UserError(
                f"data.list: {printable(path)} is in two splits of {printable(file)}; remove one"
            )
    return tested(found, f"data.list: {printable(file)}", "row")


def tested(found: dict[str, Tensor], where: str, unit: str) -> tuple[dict[str, Tensor], str]:
    """The places of each split that the data name, and a text for the user. Without a test split,
    the validation split is used as the test split. `unit`: the word for what names a split, such
    as "row" for a list.
    """
    if "train" not in found:
        raise UserError(f"{where} has no {unit} whose split is train")
    if "test" not in found and "val" in found:
        found["test"] = found.pop("val")
        return found, f"; without test {unit}s, the val {unit}s are the test split"
    return found, ""
