"""Pictures with captions in WebDataset tars and in Hugging Face sets."""

import io
import itertools
import json
import re
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from core.data import tars
from core.data.datasets import DataConfig, open_source
from core.data.source import Source, eval_sampler
from core.data.stored_captions import Told
from core.errors import UserError
from core.randomness import KeyedRNG

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
N = 30
Members = dict[str, bytes]


def sample(i: int, **members: bytes) -> Members:
    name, file = list(COLOURS)[i % 3], io.BytesIO()
    Image.new("RGB", (8, 8), COLOURS[name]).save(file, "PNG")
    told = f"a {name} square, number {i}"
    facts = json.dumps({"caption": told, "n": i}).encode()
    return {"png": file.getvalue(), "txt": told.encode(), "json": facts} | members


def write(path: Path, samples: list[Members], mode: str = "w") -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, mode) as tar:
        for i, members in enumerate(samples):
            for ending, data in members.items():
                entry = tarfile.TarInfo(f"./{i:05}.{ending}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def opened(root: Path, split: str = "train", **keys: object) -> Source:
    given = {"name": "wds/pairs", "root": str(root), "captions": "txt", "workers": 0}
    return open_source(DataConfig(**(given | keys)), split, 0, augmented=False)


def pairs(source: Source) -> list[tuple[str, str]]:
    """The colour that each picture has, and its caption."""
    names = {colour: name for name, colour in COLOURS.items()}
    found = []
    for batch in source.batches(eval_sampler(len(source), 0, 4), 1):
        for image, text in zip(batch.views[0], batch.text, strict=True):
            found.append((names[tuple(image[:, 0, 0].tolist())], text))
    return found


@pytest.mark.parametrize("captions", ["txt", "caption"])
@pytest.mark.parametrize("memory", [2.0, 0.0])
def test_a_tar_gives_each_picture_its_own_caption(tmp_path, captions, memory):
    for part in range(3):
        write(tmp_path / f"{part}.tar", [sample(i) for i in range(10 * part, 10 * part + 10)])
    seen = []
    for split in ("train", "val", "test"):
        source = opened(tmp_path, split, captions=captions, memory=memory)
        for colour, text in pairs(source):
            assert text.split()[1] == colour
            seen.append(text)
        assert "contents" in source.identity.digests
    assert len(seen) == len(set(seen)) == N


def test_equal_names_in_two_folders_of_a_tar_are_two_samples(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for i in range(N):
            for ending, data in sample(i).items():
                entry = tarfile.TarInfo(f"{i}/picture.{ending}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    places = [
        place
        for _, members in tars._samples(str(tmp_path / "0.tar"), itertools.count(1))
        for place in members
    ]
    assert len(places) == N * len(sample(0))


def test_names_of_tars_divide_the_splits_and_cls_is_the_class(tmp_path):
    for split, first in (("train", 0), ("validation", 10), ("test", 20)):
        rows = [sample(i, cls=str(i % 3).encode()) for i in range(first, first + 10)]
        write(tmp_path / "pairs" / f"mine-{split}-000.tar", rows)
    for split, first in (("train", 0), ("val", 10), ("test", 20)):
        source = opened(tmp_path, split)
        assert source.factors == {"class": 3} and source.identity.classes == ("0", "1", "2")
        numbers = sorted(int(text.split()[-1]) for _, text in pairs(source))
        assert numbers == list(range(first, first + 10))


def test_a_broken_picture_takes_its_caption_with_it_and_the_identity_sees_a_changed_one(tmp_path):
    rows = [sample(i) for i in range(N)]
    rows[4] = sample(4, png=b"no picture")
    write(tmp_path / "a.tar", rows)
    before = opened(tmp_path, skip=0.1, memory=0.0)
    assert all(text.split()[1] == colour for colour, text in pairs(before))
    rows[5] = sample(5, txt=b"another caption of the blue square")
    write(tmp_path / "b" / "a.tar", rows)
    after = opened(tmp_path / "b", skip=0.1, memory=0.0)
    assert before.identity.difference(after.identity.as_dict())


BAD = {
    "empty": (sample(3, txt=b" "), {}, "sample 4 has no 'txt'"),
    "long": (sample(3, txt=b"x" * 10**7), {}, "10,000,000 bytes"),
    "other letters": (sample(3, txt=b"\xff\xfe"), {}, "not UTF-8"),
    "class": (sample(3, cls=b"\xff"), {}, "00003: its text is not UTF-8"),
    "no member": (sample(3), {"captions": "nope"}, "keys: caption, n"),
    "a number": (sample(3), {"captions": "n"}, "not an object with a text 'n'"),
    "no json": (sample(3, json=b"{"), {"captions": "caption"}, "not an object with a text"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_captions_are_one_line(tmp_path, case):
    bad, keys, said = BAD[case]
    write(tmp_path / "a.tar", [bad if i == 3 else sample(i) for i in range(9)])
    with pytest.raises(UserError, match=re.escape(said)) as raised:
        opened(tmp_path, **keys)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


def test_bad_tars_are_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no \\*\\.tar files"):
        opened(tmp_path)
    write(tmp_path / "a.tar", [sample(i) for i in range(9)])
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:3000])
    with pytest.raises(UserError, match=r"a\.tar is not a whole, plain tar"):
        opened(tmp_path)
    write(tmp_path / "a.tar", [sample(i) for i in range(9)], "w:gz")
    with pytest.raises(UserError, match="is not a whole, plain tar"):
        opened(tmp_path)
    write(tmp_path / "a.tar", [{"txt": b"only words"}] * 9)
    with pytest.raises(UserError, match="holds a picture"):
        opened(tmp_path)
    write(tmp_path / "train" / "test.tar", [sample(0)])
    with pytest.raises(UserError, match="names two splits"):
        opened(tmp_path)


def test_the_members_of_all_tars_are_counted_together(tmp_path, monkeypatch):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.tar", [sample(i) for i in range(9)])
    monkeypatch.setattr(tars, "MOST", 2 * 9 * 3)
    assert len(tars.open_tars(tmp_path, "", "txt").pictures) == 18
    monkeypatch.setattr(tars, "MOST", 2 * 9 * 3 - 1)
    with pytest.raises(UserError, match=r"^data\.root: the tars up to .*b\.tar have more than 53"):
        tars.open_tars(tmp_path, "", "txt")


def test_tars_without_a_train_split_are_named_by_their_key(tmp_path):
    write(tmp_path / "val.tar", [sample(0, txt=b"a disc")])
    with pytest.raises(UserError, match=r"^data\.root: .* has no tar whose split is train$"):
        opened(tmp_path)


def test_links_in_a_tar_are_not_followed(tmp_path):
    (tmp_path / "secret.txt").write_text("a secret")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for ending, data in sample(0).items():
            if ending == "txt":
                entry = tarfile.TarInfo("0.txt")
                entry.type, entry.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.txt")
                tar.addfile(entry)
                continue
            entry = tarfile.TarInfo(f"0.{ending}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    with pytest.raises(UserError, match="neither a member '.txt'"):
        opened(tmp_path)


def test_one_of_several_captions_is_drawn():
    told, rng = Told([("a", "b"), "c"]), KeyedRNG(0, 0)
    drawn = {told.texts(torch.tensor([0, 1]), torch.empty(2, 0), KeyedRNG(0, i)) for i in range(20)}
    assert drawn == {("a", "c"), ("b", "c")}
    again = [told.texts(torch.tensor([0, 1]), torch.empty(2, 0), rng) for _ in range(2)]
    assert again[0] == again[1] and list(told.some(10)) == ["a", "b", "c"]


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A set in a folder as Parquet, and the same as `save_to_disk` writes it."""
    datasets = pytest.importorskip("datasets")
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    text = datasets.Value("string")
    kinds = {"image": datasets.Image(), "caption": text, "captions": datasets.Sequence(text)}
    kinds |= {"label": datasets.ClassLabel(names=list(COLOURS)), "n": datasets.Value("int64")}
    rows = []
    for i in range(N):
        held = sample(i)
        told = held["txt"].decode()
        row = {"image": {"bytes": held["png"], "path": None}, "caption": told}
        rows.append(row | {"captions": [told, f"{told}, again"], "label": i % 3, "n": i})
    schema = datasets.Features(kinds).arrow_schema
    (tmp_path / "plain").mkdir()
    table = arrow.Table.from_pylist(rows, schema)
    parquet.write_table(table, tmp_path / "plain" / "train-00000-of-00001.parquet")
    made = datasets.load_dataset(str(tmp_path / "plain"), cache_dir=str(tmp_path / "cache"))
    made.save_to_disk(str(tmp_path / "saved"))
    return tmp_path


def test_a_hugging_face_set_gives_each_picture_its_own_caption(hub, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(hub / "cache"))
    for name, captions in (("saved", "caption"), ("saved", "captions")):
        for memory in (2.0, 0.0):
            keys = {"name": f"hfds/{name}", "captions": captions, "memory": memory}
            source = opened(hub, **keys)
            assert all(text.split()[1] == colour for colour, text in pairs(source))
            assert source.factors == {"label": 3}
            assert source.identity.classes == tuple(sorted(COLOURS))
    for captions, said in (("n", "holds int64"), ("nope", "has no column 'nope'")):
        with pytest.raises(UserError, match=said):
            opened(hub, name="hfds/saved", captions=captions)
    with pytest.raises(UserError, match="there is no folder parquet"):
        opened(hub, name="hfds/parquet", captions="caption")
