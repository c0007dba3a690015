"""Captions of stored pictures: from a column of a list, from class names, and bad input."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from core.data.datasets import DataConfig, open_source
from core.data.source import eval_sampler
from core.data.stored_captions import TEMPLATES, sentences_of
from core.errors import UserError

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
N = 30


def rows_of(n: int = N) -> list[dict[str, str]]:
    names = list(COLOURS)
    rows = []
    for i in range(n):
        name = names[i % 3]
        rows.append({"file": f"{i}.png", "caption": f"a {name} square, number {i}", "class": name})
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, row in enumerate(rows_of()):
        Image.new("RGB", (8, 8), COLOURS[row["class"]]).save(tmp_path / f"{i}.png")
    write(tmp_path, rows_of())
    return tmp_path


def write(folder: Path, rows: list[dict[str, str]]) -> None:
    lines = [",".join(rows[0])] + [",".join(f'"{v}"' for v in row.values()) for row in rows]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def data(folder: Path, **keys: object) -> DataConfig:
    given = {"name": "folder", "root": str(folder), "list": "pairs.csv", "captions": "caption"}
    return DataConfig(**(given | {"workers": 0} | keys))


@pytest.mark.parametrize("listed", ["pairs.csv", "pairs.jsonl"])
@pytest.mark.parametrize("memory", [2.0, 0.0])
def test_each_picture_has_its_own_caption_in_memory_and_streamed(folder, listed, memory):
    for split in ("train", "val", "test"):
        source = open_source(data(folder, list=listed, memory=memory), split, 0, augmented=False)
        assert source.captioned and not source.captions_of_labels
        for batch in source.batches(eval_sampler(len(source), 0, 4), 1):
            for image, text, label in zip(batch.views[0], batch.text, batch.label, strict=True):
                name = text.split()[1]
                assert tuple(image[:, 0, 0].tolist()) == COLOURS[name]
                assert sorted(COLOURS)[int(label)] == name  # "class" is a label, "caption" is none
    assert set(source.captions(100)) <= {row["caption"] for row in rows_of()}
    assert list(source.prompts()) == ["class"]


@pytest.mark.parametrize("memory", [2.0, 0.0])
def test_the_caption_follows_a_picture_that_replaces_a_broken_one(folder, memory):
    for i in range(0, N, 7):
        (folder / f"{i}.png").write_bytes(b"no picture")
    source = open_source(data(folder, memory=memory, skip=0.6), "train", 0, augmented=False)
    for batch in source.batches(eval_sampler(len(source), 0, 4), 1):
        for image, text in zip(batch.views[0], batch.text, strict=True):
            assert tuple(image[:, 0, 0].tolist()) == COLOURS[text.split()[1]]


@pytest.mark.parametrize("listed", ["pairs.csv", "pairs.jsonl"])
@pytest.mark.parametrize("mark", ["\n", "\u2028", "\x85", "\x0c", "\x1c", ", ", "\r\n"])
def test_a_caption_may_hold_any_mark(folder, listed, mark):
    """Only a line feed outside of quotation marks ends a row, and none is dropped within them."""
    rows = rows_of()
    for row in rows:
        row["caption"] = f"first part{mark}{row['caption']}"
    write(folder, rows)
    if listed == "pairs.jsonl":  # as other libraries write it, with characters as they are
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / listed).write_text("\n".join(lines) + "\n", newline="")
    else:
        told = (folder / listed).read_text()
        (folder / listed).write_text(told, newline="")
    source = open_source(data(folder, list=listed), "train", 0, augmented=False)
    (batch,) = source.batches(eval_sampler(len(source), 0, 64), 1)
    allowed = {row["caption"] for row in rows}
    if mark == "\r\n" and listed == "pairs.csv":
        allowed |= {one.replace("\r\n", "\n") for one in allowed}
    assert set(batch.text) <= allowed and len(set(batch.text)) == len(source)


def test_other_captions_are_other_data(folder):
    before = open_source(data(folder), "train", 0).identity
    rows = rows_of()
    for row in rows:
        row["caption"] = row["caption"].replace("square", "picture")
    other = folder / "other"
    other.mkdir()
    write(other, rows)
    after = open_source(data(folder, list=str(other / "pairs.csv")), "train", 0).identity
    assert "captions is" in after.difference(before.as_dict())
    plain = open_source(data(folder, captions=""), "train", 0)
    assert not plain.captioned and plain.identity.fingerprint != before.fingerprint


def test_captions_from_class_names_say_what_they_are(folder):
    source = open_source(data(folder, captions="from_classes", labels="class"), "train", 0)
    plain = open_source(data(folder, captions="", labels="class"), "train", 0)
    assert source.captions_of_labels and source.captioned and not plain.captioned
    (batch,) = source.batches(eval_sampler(len(source), 0, 100), 1)
    sentences = sentences_of(sorted(COLOURS))
    for text, label in zip(batch.text, batch.label.tolist(), strict=True):
        assert text in sentences[label[0]] and len(set(batch.text)) > 3
    assert len(list(source.captions(9))) == 3 * len(TEMPLATES)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"captions": "captoin"}, "has no column 'captoin' (did you mean 'caption'?)"),
        ({"captions": "number"}, "the column 'number' of"),
        ({"list": "paths.txt"}, "paths.txt has no columns; use a CSV, TSV or JSONL file"),
        ({"list": "empty.csv"}, "row 2 has no 'caption'; fill it or remove the row"),
        ({"list": "long.jsonl"}, "the 'caption' of row 1 has 10,000,000 characters"),
        ({"list": "long.csv"}, "a cell has more than 131,072 characters"),
        ({"list": "torn.jsonl"}, "line 2 is not JSON; write one object in each line"),
        ({"list": "other.jsonl"}, "line 2 has other keys than the first line, such as 'caption'"),
        ({"list": "nested.jsonl"}, "line 1: 'caption' is neither a text nor a number"),
        ({"list": "lost.jsonl"}, "pictures of"),
    ],
)
def test_bad_input_is_one_line(folder, change, said):
    rows, long = rows_of(), "red " * 2_500_000
    files = {
        "paths.txt": "0.png\n1.png",
        "empty.csv": "file,caption\n0.png,a\n1.png,\n",
        "long.jsonl": json.dumps({"file": "0.png", "caption": long[:-1] + "."}),
        "long.csv": f'file,caption\n0.png,"{long}"\n',
        "torn.jsonl": json.dumps(rows[0]) + '\n{"file": "1.p',
        "other.jsonl": json.dumps(rows[0]) + '\n{"file": "1.png", "class": "red"}',
        "nested.jsonl": json.dumps({"file": "0.png", "caption": {"en": "a"}}),
        "lost.jsonl": json.dumps({"file": "none.png", "caption": "a"}),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    if change.get("captions") == "number":
        write(folder, [row | {"number": str(i)} for i, row in enumerate(rows)])
    with pytest.raises(UserError, match=re.escape(said)) as error:
        open_source(data(folder, **change), "train", 0)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"name": "sprites", "captions": "caption"}, "captions: sprites has captions of its own"),
        ({"name": "folder", "captions": "caption"}, "captions: 'caption' names a column"),
        ({"name": "mnist", "captions": "caption"}, "set data.captions=from_classes"),
    ],
)
def test_a_key_that_does_not_fit_is_refused(keys, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        DataConfig(**keys)


def test_numbers_of_a_column_are_texts_for_labels(folder):
    rows = [row | {"class": i % 3} for i, row in enumerate(rows_of())]
    (folder / "numbers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_source(data(folder, list="numbers.jsonl"), "train", 0)
    assert source.factors == {"class": 3} and torch.is_tensor(source.labels)
