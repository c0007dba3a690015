"""Captioned pictures in Hugging Face's format, from a folder or from the library's cache."""

import inspect
import os
import re
from pathlib import Path
from typing import Any

import torch

from core.data.folders import SPLIT_WORDS
from core.data.lists import LABELS, checked_captions
from core.data.notes import printable
from core.data.pictures import Pictures, cut, tested
from core.data.pixels import read_file
from core.errors import UserError, nearest

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")  # OWNER/NAME
SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` writes
PLAIN = ("string", "int8", "int16", "int32", "int64", "uint8", "uint16")  # kinds of labels


class HubPictures(Pictures):
    """The pictures of all splits, read from Arrow tables without decoding."""

    fingerprint: str  # Hugging Face's own digest of the tables
    parts: list[Any]  # a table for each split
    starts: list[int]  # the number of the first picture of each table
    column: str

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        part = max(i for i, start in enumerate(self.starts) if start <= index)
        held = self.parts[part][index - self.starts[part]][self.column] or {}
        if held.get("bytes"):
            return held["bytes"], 0
        path = os.path.realpath(held.get("path") or "")
        if not Path(path).is_relative_to(os.path.realpath(self.root)):
            raise UserError(
                f"data.root: {self.samples[index][0]} is a path outside of {printable(self.root)},"
                " which is not opened; store the pictures themselves in the set"
            )
        return read_file(path), 0

    def files(self, chosen: torch.Tensor) -> None:
        return None


def open_hub(name: str, root: Path, captions: str) -> Pictures:
    """The set `name`. It is a folder below `root`, another folder, or a set in the cache `root`.

    No code of the set is run. A set that is not on this machine is fetched, unless the caller keeps
    the library offline. `captions`: a column of texts, or of lists of texts. The pictures are the
    column of type Image. The label is a column whose name is in `LABELS` and that holds classes,
    texts or whole numbers. Raises `UserError`.
    """
    tables, top = _tables(name, root)
    by_split: dict[str, list[str]] = {}
    for given in tables:
        split = next((s for s, same in SPLIT_WORDS.items() if given.lower() in same), None)
        if split:
            by_split.setdefault(split, []).append(given)
    if "train" not in by_split:
        raise UserError(
            f"data.name: {printable(name)} has no train split; its splits are"
            f" {printable(', '.join(tables))}"
        )
    parts = [tables[given] for names in by_split.values() for given in names]
    column, label = _columns(parts, captions, name)
    paths, labels, texts = list[str](), list[str](), list[Any]()
    starts, places = list[int](), dict[str, torch.Tensor]()
    for split, names in by_split.items():
        first = len(paths)
        for given in names:
            starts.append(len(paths))
            paths += [f"{printable(name)}: row {i} of {given}" for i in range(len(tables[given]))]
            texts += tables[given][captions][:]
            labels += _named(tables[given], label) if label else []
        places[split] = torch.arange(first, len(paths))
    texts = [text if isinstance(text, str) else tuple(text or ()) for text in texts]
    checked_captions(texts, captions, printable(name), "row")
    found, said = tested(places, f"data.name: {printable(name)}", "row")
    made = HubPictures(top, paths, {label: labels} if label else {}, found)
    made.captions, made.starts, made.column = texts, starts, column
    made.parts = [part.select_columns([column]) for part in parts]
    made.fingerprint = " ".join(part._fingerprint for part in parts)
    return cut(made, f"data.name: {printable(name)}: {len(paths):,} pictures with captions{said}")


def _tables(name: str, root: Path) -> tuple[dict[str, Any], Path]:
    """The tables of a set by split, without decoded pictures, and the folder of its files."""
    import datasets

    top = next((path for path in (root / name, Path(name)) if path.is_dir()), None)
    if top and any((top / file).is_file() for file in SAVED):
        held: Any = datasets.load_from_disk(str(top.resolve()))
        if not isinstance(held, dict):
            held = {"train": held}
    else:
        # a name without an owner would be read as a file type, such as csv
        if top is None and not REPOSITORY.fullmatch(name):
            raise UserError(
                f"data.name: there is no folder {printable(name)}, neither in {printable(root)} nor"
                " here; name a folder, or OWNER/NAME of a set that was fetched before"
            )
        place = str(top.resolve()) if top else name
        code: dict[str, Any] = {}
        if "trust_remote_code" in inspect.signature(datasets.load_dataset).parameters:
            code["trust_remote_code"] = False
        held = datasets.load_dataset(place, cache_dir=None if top else str(root), **code)
    return dict(held), (top or root).resolve()


def _columns(parts: list[Any], captions: str, name: str) -> tuple[str, str]:
    """The names of the picture column and of the label column ("" if there is none). The tables
    are changed so that they do not decode pictures.
    """
    import datasets

    features = parts[0].features
    if captions not in features:
        raise UserError(
            f"data.captions: {printable(name)} has no column '{captions}'"
            f"{nearest(captions, list(features))}"
        )
    inner = getattr(features[captions], "feature", features[captions])
    if getattr(inner, "dtype", "") not in ("string", "large_string"):
        raise UserError(
            f"data.captions: the column '{captions}' of {printable(name)} holds"
            f" {printable(getattr(inner, 'dtype', type(inner).__name__), 40)}; name a column of"
            " texts"
        )
    pictures = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    if len(pictures) != 1:
        raise UserError(
            f"data.name: {printable(name)} has {len(pictures)} columns of pictures, but a set of"
            " pairs must have one"
        )
    for number, part in enumerate(parts):
        if set(part.features) != set(features):
            raise UserError(f"data.name: the splits of {printable(name)} have different columns")
        parts[number] = part.cast_column(pictures[0], datasets.Image(decode=False))
    plain = [key for key, kind in features.items() if getattr(kind, "dtype", "") in PLAIN]
    labels = [key for key in plain if key.lower() in LABELS and key != captions]
    return pictures[0], (labels or [""])[0]


def _named(table: Any, label: str) -> list[str]:
    """The label of each row, as text. Hugging Face writes -1 or null for "no label"."""
    kind, values = table.features[label], table[label][:]
    names = getattr(kind, "names", None)
    found = []
    for row, value in enumerate(values):
        if value is None or names and not 0 <= value < len(names):
            raise UserError(
                f"data.name: row {row} has the label {value}, which is no class of the column"
                f" '{label}'; leave rows without a label out, or rename the column, so that it is"
                " not read"
            )
        found.append(names[value] if names else str(value))
    return found
