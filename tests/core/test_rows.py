"""Rows that are kept beside a checkpoint: they are read only if they are whole, have the same key,
and the same user wrote them.
"""

import errno
import os
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.run import rows, signing
from core.run.rows import Rows, kept

KEY = {"weights": "a", "split": "test"}
SHAPES = {"x": (6, None), "y": (6, 1)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TWOBOUNDS_CACHE", str(tmp_path / "cache"))


def write(path, key=KEY):
    made = Rows(6, path, key)
    for first in (0, 4):
        x = torch.arange(12.0).view(6, 2)[first : first + 4]
        made.add({"x": x, "y": torch.arange(6)[first : first + 4, None]})
    return made.finish()


def test_written_rows_are_read_again_from_a_plain_safetensors_file(tmp_path):
    path = tmp_path / "features" / "a.safetensors"
    for found in (write(path), kept(path, KEY, SHAPES), load_file(path)):
        assert torch.equal(found["x"], torch.arange(12.0).view(6, 2))
        assert torch.equal(found["y"], torch.arange(6)[:, None])
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


def test_a_crafted_file_is_not_read(tmp_path):
    """One-hot labels as features would be a perfect encoder."""
    path = tmp_path / "a.safetensors"
    write(path)
    held = load_file(path)
    save_file({"x": torch.eye(6)[:, :2].contiguous(), "y": held["y"]}, path)
    assert kept(path, KEY, SHAPES) is None
    save_file({"x": torch.eye(6), "y": held["y"], "code": held["code"]}, path)
    assert kept(path, KEY, SHAPES) is None


@pytest.mark.parametrize("place", [0, 9, 40, -60, -1])
def test_any_changed_byte_is_seen(tmp_path, place):
    path = tmp_path / "a.safetensors"
    write(path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert kept(path, KEY, SHAPES) is None


def test_another_key_another_shape_another_user_and_half_a_file_are_not_read(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    write(path)
    assert kept(path, KEY | {"weights": "b"}, SHAPES) is None
    for shapes in ({"x": (7, None), "y": (7, 1)}, {"x": (6,), "y": (6, 1)}, {"z": (6,)}):
        assert kept(path, KEY, shapes) is None
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:20], b"", b"\xff" * 400):
        path.write_bytes(content)
        assert kept(path, KEY, SHAPES) is None
    path.write_bytes(whole)
    assert kept(path, KEY, SHAPES) is not None
    monkeypatch.setenv("TWOBOUNDS_CACHE", str(tmp_path / "of somebody else"))
    assert kept(path, KEY, SHAPES) is None


def test_a_key_is_private_and_one_that_others_can_read_signs_nothing(tmp_path):
    assert signing.sign([b"a"]) == signing.sign([b"", b"a"]) != signing.sign([b"b"])
    key = tmp_path / "cache" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.chmod(0o644)
    signing._key.cache_clear()
    assert signing.sign([b"a"]) is None and not signing.is_own([b"a"], b"")


def test_a_full_disk_or_a_folder_in_the_way_leaves_the_arrays_in_memory(
    tmp_path, monkeypatch, capsys
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        found = write(tmp_path / "features" / "a.safetensors")
    assert torch.equal(found["x"], torch.arange(12.0).view(6, 2))
    assert "no results can be kept there" in capsys.readouterr().out
    assert not list((tmp_path / "features").iterdir())
    (tmp_path / "file").write_text("")
    assert len(write(tmp_path / "file" / "a.safetensors")["x"]) == 6
    (tmp_path / f".b.safetensors.{os.getpid()}.tmp").mkdir()
    assert len(write(tmp_path / "b.safetensors")["x"]) == 6


def test_an_interrupted_reading_leaves_no_file(tmp_path):
    made = Rows(6, tmp_path / "a.safetensors", KEY)
    made.add({"x": torch.zeros(4, 2)})
    made.discard()
    assert not list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob(".*.tmp"))


def test_the_name_of_a_file_is_a_function_of_everything_in_the_key():
    names = {rows.name_of(key) for key in (KEY, KEY | {"seed": 1}, KEY | {"seed": None}, {})}
    assert len(names) == 4


def test_rows_of_another_version_of_the_code_are_not_read(tmp_path, monkeypatch):
    """The version is part of every key, so also of the name and of the signature."""
    path, name = tmp_path / "a.safetensors", rows.name_of(KEY)
    write(path)
    assert kept(path, KEY, SHAPES) is not None
    monkeypatch.setattr(rows, "FORMAT", rows.FORMAT + 1)
    assert kept(path, KEY, SHAPES) is None and rows.name_of(KEY) != name
