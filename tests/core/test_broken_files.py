"""A file of torchvision's sets that is cut short is named, with what is wrong and what to do."""

import gzip
import pickle
import struct

import numpy as np
import pytest

from core.data import datasets
from core.data.datasets import DataConfig, open_source
from core.errors import UserError

REMEDY = "put the whole file there, or remove it and set data.download=true"


def idx(a: np.ndarray) -> bytes:
    return struct.pack(f">HBB{a.ndim}I", 0, 8, a.ndim, *a.shape) + a.astype(np.uint8).tobytes()


def fashion(root, packed: bool):
    """Files of 60 training and 20 test images; returns their folder."""
    folder, rng = root / "FashionMNIST" / "raw", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for part, n in (("train", 60), ("t10k", 20)):
        arrays = {
            "images-idx3": rng.integers(0, 256, (n, 28, 28)),
            "labels-idx1": np.arange(n) % 10,
        }
        for name, array in arrays.items():
            data = idx(array)
            file = folder / f"{part}-{name}-ubyte{'.gz' if packed else ''}"
            file.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    return folder


def said(name: str, root, split: str = "train") -> str:
    with pytest.raises(UserError) as refused:
        open_source(DataConfig(name=name, root=str(root)), split, 0)
    line = str(refused.value)
    assert "\n" not in line
    return line


def cut(file, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


@pytest.mark.parametrize(
    "file, split, size, reason",
    [
        ("train-images-idx3-ubyte", "train", 5000, "is cut short (5,000 of 47,056 bytes)"),
        ("train-images-idx3-ubyte", "train", 9, "is cut short (9 of 16 bytes)"),
        ("train-images-idx3-ubyte", "train", 0, "has only 0 bytes"),
        ("train-labels-idx1-ubyte", "train", 40, "is cut short (40 of 68 bytes)"),
        ("t10k-images-idx3-ubyte", "test", 5000, "is cut short (5,000 of 15,696 bytes)"),
    ],
)
def test_an_idx_file_that_is_cut_short_is_named(tmp_path, file, split, size, reason):
    folder = fashion(tmp_path, packed=False)
    assert len(open_source(DataConfig(name="fashion_mnist", root=str(tmp_path)), split, 0))
    cut(folder / file, size)
    datasets._plain.cache_clear()
    assert f"{folder / file} {reason}; {REMEDY}" in said("fashion_mnist", tmp_path, split)


def test_a_packed_idx_file_that_is_cut_short_is_named(tmp_path):
    folder = fashion(tmp_path, packed=True)
    assert "train-images-idx3-ubyte.gz is not unpacked; call gunzip -k" in said(
        "fashion_mnist", tmp_path
    )
    cut(folder / "t10k-labels-idx1-ubyte.gz", 20)
    line = said("fashion_mnist", tmp_path)
    assert f"{folder / 't10k-labels-idx1-ubyte.gz'} is cut short or changed" in line
    assert line.endswith(REMEDY)


def test_a_set_that_is_not_there_is_said_to_be_missing(tmp_path):
    for name in ("fashion_mnist", "cifar10"):
        assert "put the files there, name another data.root" in said(name, tmp_path)


def test_other_files_of_torchvision_that_are_cut_short_are_named(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        held = {"data": np.zeros((10, 3072), np.uint8), "labels": [0] * 10}
        (folder / name).write_bytes(pickle.dumps(held)[:5000])
    line = said("cifar10", tmp_path)
    assert f"{folder / 'data_batch_1'} is cut short or changed (5,000 bytes" in line
    (folder / "data_batch_1").unlink()
    assert f"{folder / 'data_batch_1'} is missing" in said("cifar10", tmp_path)
    stl = tmp_path / "stl10_binary"
    stl.mkdir()
    (stl / "train_X.bin").write_bytes(b"x" * 999)
    assert f"{stl / 'train_X.bin'} is cut short or changed" in said("stl10", tmp_path)
