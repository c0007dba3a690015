"""Folders of images: the class of a file, and the files that are left out."""

import os
from pathlib import Path

import pytest
from PIL import Image

from core.data.datasets import open_source
from core.data.folders import Folder, natural
from core.data.source import eval_sampler
from core.errors import UserError
from tests.pictures import config, labels, png


def open_split(root: Path, split: str = "trainval", **more):
    return open_source(config(root, **more), split, 0)


def test_a_class_is_the_first_folder_below_the_split(tmp_path):
    png(tmp_path, *(f"train/{c}/{s}/{i}.png" for c in "ab" for s in ("s1", "s2") for i in (0, 1)))
    png(tmp_path, "train/b/deep/er/0.png", "test/b/s1/0.png", "test/a/x/y/z/0.png")
    source = open_split(tmp_path)
    assert source.factors == {"class": 2} and source.identity.classes == ("a", "b")
    assert sorted(labels(source)) == [0] * 4 + [1] * 5
    assert labels(open_split(tmp_path, "test")) == [0, 1]


def test_the_same_folder_name_under_two_classes_is_not_one_class(tmp_path):
    png(tmp_path, "train/left/images/0.png", "train/right/images/0.png", "test/left/0.png")
    assert open_split(tmp_path).identity.classes == ("left", "right")


def test_hidden_names_are_left_out_and_reported(tmp_path, capfd):
    png(tmp_path, "train/a/0.png", "train/a/1.png", "train/.ipynb_checkpoints/0.png")
    png(tmp_path, "train/a/.thumbnails/0.png", "train/a/._1.png", "train/a/.DS_Store.png")
    source = open_split(tmp_path)
    assert source.identity.classes == ("a",) and len(source) == 2
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and "left out (4 hidden, such as .ipynb_checkpoints)" in said[0], said
    open_split(tmp_path, workers=1)
    assert not capfd.readouterr().err, "once"


@pytest.mark.parametrize(
    "suffix", ["bmp", "webp", "tif", "TIFF", "gif", "ppm", "jp2", "tga", "ico", "pcx", "JPG", "qoi"]
)
def test_every_format_that_pillow_decodes_is_read(suffix, tmp_path):
    png(tmp_path, "train/a/0.png")
    for c in "ab":
        (tmp_path / "train" / c).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (90, 90, 90)).save(tmp_path / f"train/{c}/1.{suffix}")
    source = open_split(tmp_path)
    assert len(source) == 3 and source.factors == {"class": 2}
    (batch,) = source.batches(eval_sampler(3), 1)
    assert (batch.views[0].int()[batch.label[:, 0] == 1] - 90).abs().max() <= 2


def test_files_that_are_not_images_are_left_out_and_counted(tmp_path, capfd):
    png(tmp_path, "train/a/0.png", "train/a/1.png", "train/b/0.png", "train/loose.png")
    for name in ("a/notes.txt", "a/labels.csv", "b/clip.mp4", "b/drawing.eps", "README"):
        (tmp_path / "train" / name).write_text("words")
    os.symlink(tmp_path / "nowhere.png", tmp_path / "train/a/lost.png")
    os.mkfifo(tmp_path / "train/b/pipe.png")  # reading it would wait forever
    source = open_split(tmp_path)
    assert len(source) == 3
    (said,) = capfd.readouterr().err.splitlines()
    for words in (
        "4 not images, such as labels.csv",
        "1 links that lead nowhere, such as lost.png",
        "1 not regular files, such as pipe.png",
        "2 outside the classes' folders, such as README",
    ):
        assert words in said, said


def test_a_file_of_postscript_starts_no_other_program(tmp_path):
    png(tmp_path, "train/a/0.png", "train/a/1.png")
    (tmp_path / "train/a/2.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF"
    )
    with pytest.raises(UserError, match=r"2\.png can not be decoded \(not an image"):
        open_split(tmp_path)


def test_a_class_without_images_is_refused_in_train_and_reported_in_test(tmp_path, capfd):
    png(tmp_path, "train/a/0.png", "train/a/1.png", "test/a/0.png")
    (tmp_path / "test/b").mkdir()
    (tmp_path / "train/b").mkdir()
    (tmp_path / "train/b/0.txt").write_text("words")
    with pytest.raises(UserError, match=r"train/b is a class without readable .*0\.txt.*remove"):
        open_split(tmp_path)
    png(tmp_path, "train/b/0.png")
    capfd.readouterr()
    assert labels(open_split(tmp_path, "test")) == [0]
    assert "1 classes have no images here, such as 'b'" in capfd.readouterr().err


def test_a_split_without_images_says_the_layout(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"holds no images.*train/CLASS/\*\.jpg"):
        open_split(tmp_path)
    png(tmp_path, "train/0.png")
    with pytest.raises(UserError, match="1 pictures can not be divided"):
        open_split(tmp_path)


@pytest.mark.parametrize("target", ["train/a", "train", "train/a/inner"])
def test_loops_of_links_end(target, tmp_path, capfd):
    png(tmp_path, "train/a/0.png", "train/a/inner/1.png")
    os.symlink(tmp_path / target, tmp_path / "train/a/inner/again")
    os.symlink("self.png", tmp_path / "train/a/self.png")
    source = open_split(tmp_path)
    assert len(source) == 2
    assert "links to a folder that was read already" in capfd.readouterr().err


def test_links_that_double_at_every_level_are_read_once(tmp_path):
    png(tmp_path, "train/a/0.png", *(f"store/{i}/x.png" for i in range(25)))
    for i in range(24):
        for name in ("left", "right"):  # 2^24 paths to the last folder
            os.symlink(tmp_path / f"store/{i + 1}", tmp_path / f"store/{i}/{name}")
    os.symlink(tmp_path / "store/0", tmp_path / "train/a/store")
    assert len(open_split(tmp_path)) == 26


def test_a_class_may_be_a_link(tmp_path):
    png(tmp_path, "elsewhere/0.png", "train/a/0.png", "train/a/1.png")
    os.symlink(tmp_path / "elsewhere", tmp_path / "train/b")
    assert sorted(labels(open_split(tmp_path))) == [0, 0, 1]


def test_a_folder_that_can_not_be_listed_is_named(tmp_path, monkeypatch):
    png(tmp_path, "train/a/0.png", "train/a/locked/1.png")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("core.data.folders.os.scandir", refuse)
    with pytest.raises(UserError, match=r"a/locked can not be listed \(Permission denied\)"):
        open_split(tmp_path)


def test_names_are_sorted_by_their_numbers_and_never_tie():
    assert sorted(["10", "9", "a2", "A2", "a10", "01", "1", "²"], key=natural) == [
        "01", "1", "9", "10", "A2", "a2", "a10", "²",
    ]  # fmt: skip


def test_odd_names_are_escaped_before_they_are_printed(tmp_path, capfd):
    png(tmp_path, "train/a/0.png", "train/a/1.png", "train/a/.\x1b[31m\n.png")
    (tmp_path / "train" / "a" / os.fsdecode(b"caf\xe9.png")).write_bytes(
        (tmp_path / "train/a/0.png").read_bytes()
    )
    source = open_split(tmp_path)
    assert len(source) == 3 and len(source.identity.fingerprint) == 64
    said = capfd.readouterr().err
    assert "\\x1b[31m\\n" in said and "\x1b" not in said


@pytest.mark.parametrize(
    "root, said",
    [
        ("~nosuchuser/data", "there is no such user"),
        ("data\0", "null"),
        ("x" * 5000, "too long"),
        ("{file}", "is a file"),
        ("{file}/below", "no folder"),
    ],
)
@pytest.mark.parametrize("name", ["folder", "mnist"])
def test_an_impossible_root_is_one_line(root, said, name, tmp_path):
    (tmp_path / "file").write_text("words")
    settings = config(tmp_path, name=name)
    settings.root = root.format(file=tmp_path / "file")
    with pytest.raises(UserError, match=r"^data\.root: ") as refused:
        open_source(settings, "train", 0)
    assert "\n" not in str(refused.value) and "\0" not in str(refused.value)
    assert name == "mnist" and "below" in root or said in str(refused.value).lower()


@pytest.mark.parametrize("count, validation", [(2, 1), (9, 8)])
def test_one_image_is_a_split(count, validation, tmp_path):
    png(tmp_path, *(f"train/a/{i}.png" for i in range(count)), "test/a/0.png")
    for split, n in (("train", count - validation), ("val", validation), ("test", 1)):
        for memory in (1.0, 0.0):
            source = open_split(tmp_path, split, validation=validation, memory=memory)
            assert len(source) == len(labels(source)) == n
            assert source.identity.images == n


@pytest.mark.parametrize("memory", [1.0, 0.0])
def test_a_class_that_is_held_out_completely_is_reported(memory, tmp_path, capfd):
    png(tmp_path, *(f"train/{c}/0.png" for c in "abcd"))
    source = open_split(tmp_path, "train", validation=3, memory=memory)
    assert len(source) == 1 and source.factors == {"class": 4}
    said = capfd.readouterr().err
    assert "3 of 4 classes" in said and "no image left to train on" in said


def test_pictures_are_read_in_the_order_of_their_numbers(tmp_path):
    """Also across classes: class c2 before c10, and 2.png before 10.png."""
    names = ["c2/2.png", "c2/10.png", "c10/1.png", "c10/9.png"]
    png(tmp_path, *names[::-1])
    folder = Folder(tmp_path)
    assert folder.classes == ("c2", "c10")
    assert folder.samples == [
        (str(tmp_path / name), label) for name, label in zip(names, [0, 0, 1, 1], strict=True)
    ]
