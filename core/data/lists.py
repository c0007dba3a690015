"""A list of pictures: a text file with a path in each line, a CSV or TSV table with a header, or a
JSONL file with an object in each line.
"""

import csv
import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from core.data.folders import SPLIT_WORDS
from core.data.notes import printable
from core.data.pixels import suffixes
from core.errors import UserError, nearest

PATHS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img")
SPLITS = ("split", "set", "subset", "partition")
LABELS = ("label", "labels", "class", "class_name", "category", "target", "y")
SHORT = {"train": ("tr",), "test": ("te",)}  # more words in a split column
TABLES = (".csv", ".tsv", ".jsonl")
LARGEST = 2**30  # bytes of a list
LONGEST_CAPTION = 100_000  # characters


class Listed(NamedTuple):
    """The rows of a list of n pictures."""

    paths: list[str]  # as they are written
    labels: dict[str, list[str]]  # the chosen columns, in order
    splits: list[str] | None  # "train", "val" or "test" for each; None without a split column
    others: tuple[str, ...]  # columns that are not read
    captions: list[str] | None = None  # of each picture, if a column was named


def read_list(file: Path, labels: str, captions: str = "") -> Listed:
    """The rows of a list. A table has a header, unless its first cell is the name of a picture. One
    column holds paths (one of `PATHS`, or else the first column), and one may hold splits (one of
    `SPLITS`). `labels` names the columns with labels, separated by commas; "auto" takes a column of
    `LABELS`, "none" takes none. `captions` names a text column. A .jsonl file has an object with
    the same keys in each line.

    Raises `UserError` with the file, the line and what to do.
    """
    text = _text(file)
    if file.suffix.lower() not in TABLES:
        if captions:
            raise UserError(
                f"data.captions: {printable(file)} has no columns; use a CSV, TSV or JSONL file"
            )
        if labels not in ("auto", "none"):
            raise UserError(f"data.labels: {printable(file)} has no columns; use a CSV file")
        paths = [line.strip() for line in _lines(text) if line.strip()]
        return Listed(_some(paths, file), {}, None, ())
    head, rows = _objects(text, file) if file.suffix.lower() == ".jsonl" else _table(text, file)
    columns = dict(zip(head, zip(*rows, strict=True), strict=True)) if rows else {}
    _some(rows, file)
    path_column = next((name for name in head if name.lower() in PATHS), head[0])
    split_column = next((name for name in head if name.lower() in SPLITS), None)
    used = [path_column, *([split_column] if split_column else [])]
    if captions and captions not in head:
        raise UserError(
            f"data.captions: {printable(file)} has no column '{captions}'{nearest(captions, head)}"
        )
    used += [captions] if captions else []
    free = [name for name in head if name not in used]
    chosen = _label_columns(labels, free, file)
    paths = list(columns[path_column])
    if "" in paths:
        raise UserError(f"data.list: {printable(file)}: row {paths.index('') + 1} has no path")
    for name in chosen:
        if "" in columns[name]:
            raise UserError(
                f"data.list: {printable(file)}: row {columns[name].index('') + 1} has no '{name}';"
                " fill it, remove the row, or set data.labels=none"
            )
    splits = _splits(columns[split_column], split_column, file) if split_column else None
    others = tuple(name for name in free if name not in chosen)
    told = list(columns[captions]) if captions else None
    if told:
        checked_captions(told, captions, printable(file), "row")
    return Listed(paths, {name: list(columns[name]) for name in chosen}, splits, others, told)


def _text(file: Path) -> str:
    try:
        if not file.is_file():
            raise UserError(f"data.list: {printable(file)} is not a file; name a list of pictures")
        if file.stat().st_size > LARGEST:
            raise UserError(f"data.list: {printable(file)} is too long for a list of pictures")
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"data.list: {printable(file)}: byte {error.start} is not UTF-8; save it as UTF-8 text"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"data.list: {printable(file)} can not be read ({reason})") from None


def _lines(text: str) -> list[str]:
    """The lines of a file. `str.splitlines` also cuts at characters that captions may contain, such
    as U+2028.
    """
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _table(text: str, file: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows, whose cells are stripped. A table whose first cell is a picture's
    name has no header: its columns are "path", "label", "column 3" and so on.
    """
    first = text.partition("\n")[0]
    delimiter = "\t" if file.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    rows: list[list[str]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for cells in reader:
            row = [cell.strip() for cell in cells]
            if not any(row):
                continue
            if rows and len(row) != len(rows[0]):
                raise UserError(
                    f"data.list: {printable(file)}: line {reader.line_num} has {len(row)} cells,"
                    f" but the first line has {len(rows[0])}"
                )
            rows.append(row)
    except csv.Error as error:
        said = f"{error}; save it as a plain CSV file"
        if "field limit" in said:
            most = f"{csv.field_size_limit():,} characters"
            said = f"a cell has more than {most}; shorten it, or close an open quotation mark"
        raise UserError(f"data.list: {printable(file)}: line {reader.line_num}: {said}") from None
    if rows and os.path.splitext(rows[0][0])[1].lower() in suffixes():
        names = ["path", "label"] + [f"column {i + 3}" for i in range(len(rows[0]))]
        return names[: len(rows[0])], rows
    head = _some(rows, file)[0]
    twice = [name for name in head if head.count(name) > 1]
    if twice:
        raise UserError(f"data.list: {printable(file)}: two columns are named {twice[0]!r}")
    return head, rows[1:]


def _objects(text: str, file: Path) -> tuple[list[str], list[list[str]]]:
    """The keys and the rows of a JSONL file: an object with texts or numbers in each line."""
    head: list[str] = []
    rows: list[list[str]] = []
    for number, line in enumerate(_lines(text), 1):
        if not line.strip():
            continue
        where = f"data.list: {printable(file)}: line {number}"
        try:
            held = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{where} is not JSON; write one object in each line") from None
        if not isinstance(held, dict) or not held:
            raise UserError(f"{where} is not an object with keys, such as a path and a caption")
        head = head or list(held)
        if held.keys() != set(head):
            other = printable(sorted(held.keys() ^ set(head))[0], 60)
            raise UserError(f"{where} has other keys than the first line, such as '{other}'")
        for key in head:
            if not isinstance(held[key], str | int | float):
                raise UserError(f"{where}: '{printable(key, 60)}' is neither a text nor a number")
        rows.append([str(held[key]).strip() for key in head])
    return _some(head, file), rows


def checked_captions(
    texts: Sequence[str | Sequence[str]], name: str, where: str, unit: str
) -> None:
    """`UserError` if the captions of some pictures, in a column `name`, can not be used. A picture
    has one or several captions. `unit`: the word for what holds one picture, such as "row".
    """
    for number, held in enumerate(texts, 1):
        several = [held] if isinstance(held, str) else held
        if not several or not all(several):
            raise UserError(
                f"data.captions: {where}: {unit} {number} has no '{name}'; fill it or remove the"
                f" {unit}"
            )
        longest = max(map(len, several))
        if longest > LONGEST_CAPTION:
            raise UserError(
                f"data.captions: {where}: the '{name}' of {unit} {number} has {longest:,}"
                f" characters; a caption has at most {LONGEST_CAPTION:,}"
            )
    if all(isinstance(text, str) and _is_number(text) for text in texts):
        raise UserError(
            f"data.captions: the column '{name}' of {where} holds numbers, such as"
            f" {printable(texts[0], 30)}; name the column with the captions"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _some(rows: list, file: Path) -> list:  # type: ignore[type-arg]
    if not rows:
        raise UserError(f"data.list: {printable(file)} names no pictures")
    return rows


def _label_columns(labels: str, free: list[str], file: Path) -> list[str]:
    if labels == "none":
        return []
    if labels == "auto":
        return [name for name in free if name.lower() in LABELS][:1]
    names = [name.strip() for name in labels.split(",") if name.strip()]
    for name in names:
        if name not in free:
            raise UserError(
                f"data.labels: {printable(file)} has no column '{name}'{nearest(name, free)}"
            )
        if not re.fullmatch(r"[^/\s](?:[^/\n]*[^/\s])?", name):
            raise UserError(f"data.labels: the column '{name}' has a slash; rename it")
    return names


def _splits(words: tuple[str, ...], column: str, file: Path) -> list[str]:
    known = {
        word: split
        for split, same in SPLIT_WORDS.items()
        for word in (*same, *SHORT.get(split, ()))
    }
    for row, word in enumerate(words):
        if word.lower() not in known:
            raise UserError(
                f"data.list: {printable(file)}: row {row + 1} has {printable(word, 60)!r} in column"
                f" '{column}'; write train, val or test"
            )
    return [known[word.lower()] for word in words]
