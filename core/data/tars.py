"""Pictures with captions in WebDataset tars. An index of the members is made once. Each picture is
then read from its place in the tar, so batches can have any order, and nothing is unpacked.

The members of a sample share the name before the first dot: `00012.jpg`, `00012.txt`, `00012.json`.
"""

import itertools
import json
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from core.data.folders import SPLIT_WORDS, counts, natural
from core.data.lists import LONGEST_CAPTION, checked_captions
from core.data.notes import printable, say_once
from core.data.pictures import Pictures, cut, tested
from core.data.pixels import suffixes
from core.errors import UserError

CLASS = "cls"  # the member with the class of a sample
MOST_BYTES = 4 * LONGEST_CAPTION  # of a member with text; UTF-8 has at most 4 bytes per character
MOST = 2**24  # members of all tars together


class Place(NamedTuple):
    """Where the bytes of a member lie."""

    tar: str
    offset: int
    size: int


class Tars(Pictures):
    """The pictures of several tars. They are recognised by the contents of the tars."""

    tars: list[str]
    pictures: list[Place]

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        return read(self.pictures[index]), 0

    def files(self, chosen: torch.Tensor) -> tuple[str | Path, list[tuple[str, Any]]]:
        return self.root, [(tar, 0) for tar in self.tars]


def open_tars(root: Path, name: str, captions: str) -> Pictures:
    """The pictures in all *.tar files below `root`/`name`, or else below `root`.

    `captions` is the ending of a member, such as txt, or a key of the json member. A member `cls`
    is the label. A tar whose path has the word train, val or test (`SPLIT_WORDS`) belongs to that
    split; others belong to train. Raises `UserError`.
    """
    top = root / name if name and (root / name).is_dir() else root
    paths = sorted((str(path) for path in top.rglob("*.tar") if path.is_file()), key=natural)
    if not top.is_dir():
        raise UserError(
            f"data.root: there is no folder {printable(top)}; name the folder of the tars"
        )
    if not paths:
        raise UserError(
            f"data.root: {printable(top)} holds no *.tar files; a compressed tar has no random"
            " access, so decompress it to a plain .tar first"
        )
    names, places, texts, classes, splits = [], [], [], [], []
    left_out: dict[str, list[str]] = defaultdict(list)
    seen = itertools.count(1)
    for path in paths:
        split = _split_of(os.path.relpath(path, top))
        for key, members in _samples(path, seen):
            ending = next((end for end in members if f".{end}" in suffixes()), None)
            if ending is None:
                left_out["samples without a picture"].append(f"{path}/{key}")
                continue
            names.append(f"{path}/{key}.{ending}")
            places.append(members[ending])
            where = f"{printable(path)}: {printable(key, 60)}"
            texts.append(_caption(captions, members, where))
            label = _text(members[CLASS], f"data.root: {where}") if CLASS in members else ""
            classes.append(label)
            splits.append(split)
    if left_out:
        say_once(f"data.root: {printable(top)}: left out{counts(left_out)}")
    if not names:
        raise UserError(f"data.root: no tar below {printable(top)} holds a picture")
    checked_captions(texts, captions, printable(top), "sample")
    columns = {"class": classes} if all(classes) else {}
    by_split = {
        split: torch.tensor([i for i, s in enumerate(splits) if s == split])
        for split in dict.fromkeys(splits)
    }
    found, said = tested(by_split, f"data.root: {printable(top)}", "tar")
    made = Tars(top, names, columns, found)
    made.tars, made.pictures, made.captions = paths, places, list(texts)
    known = "with classes" if columns else "without classes"
    start = f"data.root: {printable(top)}: {len(names):,} pictures in {len(paths):,} tars, {known}"
    return cut(made, start + said)


def read(place: Place) -> bytes:
    """The bytes of a member."""
    with open(place.tar, "rb") as file:
        file.seek(place.offset)
        return file.read(place.size)


def _samples(path: str, seen: Iterator[int]) -> Iterator[tuple[str, dict[str, Place]]]:
    """The samples of a tar: their name, and where the member of each ending lies. `seen` counts the
    members of all tars.
    """
    size, key, members = os.path.getsize(path), "", dict[str, Place]()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                if next(seen) > MOST:
                    raise UserError(
                        f"data.root: the tars up to {printable(path)} have more than {MOST:,}"
                        " members; name a folder with fewer tars"
                    )
                if not member.isreg() or member.sparse is not None:
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("it is cut short")
                folder, _, file = member.name.rpartition("/")
                stem, _, ending = file.partition(".")
                if (here := f"{folder}/{stem}".lstrip("/")) != key:
                    if members:
                        yield key, members
                    key, members = here, {}
                members[ending.lower()] = Place(path, member.offset_data, member.size)
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or printable(error)
        raise UserError(
            f"data.root: {printable(path)} is not a whole, plain tar ({reason}); fetch or write it"
            " again, or remove it"
        ) from None
    if members:
        yield key, members


def _caption(captions: str, members: dict[str, Place], where: str) -> str:
    if captions in members:
        return _text(members[captions], f"data.captions: {where}")
    if "json" not in members:
        raise UserError(
            f"data.captions: {where} has no member '.{captions}' and no .json; its members are"
            f" {', '.join(f'.{end}' for end in sorted(members))}"
        )
    try:
        held = json.loads(_text(members["json"], f"data.captions: {where}"))
        text = held[captions]
        if not isinstance(text, str):
            raise TypeError
    except KeyError:
        keys = printable(", ".join(sorted(held)), 200)
        raise UserError(
            f"data.captions: {where} has neither a member '.{captions}' nor a key '{captions}' in"
            f" its .json (keys: {keys})"
        ) from None
    except (ValueError, TypeError, RecursionError):
        raise UserError(
            f"data.captions: {where}: its .json is not an object with a text '{captions}'"
        ) from None
    return text.strip()


def _text(place: Place, where: str) -> str:
    """The text of a member. `where` begins a message: the key, the tar and the sample."""
    if place.size > MOST_BYTES:
        raise UserError(
            f"{where}: a text of {place.size:,} bytes; a text has at most {MOST_BYTES:,} bytes"
        )
    try:
        return read(place).decode().strip()
    except UnicodeDecodeError:
        raise UserError(f"{where}: its text is not UTF-8") from None
    except OSError as error:
        raise UserError(f"{where}: it can not be read ({error.strerror})") from None


def _split_of(path: str) -> str:
    """The split that a path names; "train" if it names none."""
    words = {word.lower() for word in re.split(r"[^A-Za-z]+", path)}
    named = [split for split, same in SPLIT_WORDS.items() if words & {*same}]
    if len(named) > 1:
        raise UserError(f"data.root: the path of {printable(path)} names two splits; rename it")
    return named[0] if named else "train"
