"""Real data: splits, layouts, streaming, and what is said when files are missing."""

from core.data import DataConfig, open_source
from core.errors import UserError
from core.images import Arrays, Stream
from core.source import reading_order, training_order

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two classes of PNGs, 20 for training and 6 for testing each; a picture's red value tells which it is."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 20), ("test", 6)):
        for c, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((8, 10, 3), (100 * c + i, 50, 200), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i:02}.png")
    return root


def config(root: Path, **more) -> DataConfig:
    return DataConfig(**{"name": "folder", "root": str(root), "validation": 10, "augment": "none", "size": 8, "workers": 0, **more})


def ids(source) -> list[int]:
    (batch,) = source.batches(reading_order(len(source), block=1000), 1)
    return batch.views[0][:, 0, 4, 4].tolist()


def test_splits_are_disjoint_and_cover(folder):
    parts = {split: ids(open_source(config(folder), split, 0)) for split in ("train", "val", "trainval", "test")}
    assert len(parts["train"]) == 30 and len(parts["val"]) == 10 and len(parts["test"]) == 12
    assert sorted(parts["train"] + parts["val"]) == sorted([*range(20), *range(100, 120)])
    assert parts["trainval"] == parts["train"] + parts["val"]
    assert parts["val"] == ids(open_source(config(folder), "val", 5)), "the split does not depend on the run's seed"


@pytest.mark.parametrize("workers", [0, 2])
def test_streaming_and_memory_give_the_same_batches(folder, workers):
    held, streamed = (open_source(config(folder, memory=memory, augment="simclr", workers=workers), "train", 0) for memory in (1.0, 0.0))
    assert isinstance(held, Arrays) and isinstance(streamed, Stream)
    orders = [training_order(30, 8, 3, 2, 9) for _ in range(2)]
    for a, b in zip(held.batches(orders[0], 2), streamed.batches(orders[1], 2), strict=True):
        assert torch.equal(a.label, b.label) and torch.equal(a.index, b.index)
        assert all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))
    assert held.shape == streamed.shape == (3, 8, 8) and held.factors == {"class": 2}


def test_labels_follow_their_images(folder):
    source = open_source(config(folder), "train", 0)
    (batch,) = source.batches(reading_order(len(source), block=100), 1)
    assert torch.equal(batch.label[:, 0], (batch.views[0][:, 0, 4, 4] >= 100).long())


def test_images_of_several_shapes_need_a_size(folder, tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        for i, shape in enumerate([(8, 8, 3), (9, 12, 3)] * 3):
            Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / split / "a" / f"{i}.png")
    with pytest.raises(UserError, match=r"data\.size"):
        open_source(config(tmp_path, size=0, validation=1), "test", 0)
    assert open_source(config(tmp_path, size=6, validation=1), "test", 0).shape == (3, 6, 6)


def write_mnist(root: Path) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, n in (("train", 30), ("t10k", 10)):
        images, labels = np.arange(n * 784, dtype=np.int64) % 251, np.arange(n) % 10
        for kind, magic, dims, values in (("images-idx3", 2051, (n, 28, 28), images), ("labels-idx1", 2049, (n,), labels)):
            data = struct.pack(f">{1 + len(dims)}i", magic, *dims) + values.astype(np.uint8).tobytes()
            (raw / f"{name}-{kind}-ubyte").write_bytes(data)
            with gzip.open(raw / f"{name}-{kind}-ubyte.gz", "wb") as file:
                file.write(data)


def test_mnist_is_read_from_its_original_files(tmp_path):
    write_mnist(tmp_path)
    source = open_source(DataConfig(name="mnist", root=str(tmp_path), validation=5, augment="none"), "test", 0)
    (batch,) = source.batches(reading_order(10), 1)
    assert source.shape == (1, 28, 28) and source.factors == {"class": 10}
    assert torch.equal(batch.views[0].flatten().long(), torch.arange(10 * 784) % 251)
    assert batch.label[:, 0].tolist() == list(range(10))


@pytest.mark.skipif(not os.environ.get("TWOBOUNDS_DATA"), reason="TWOBOUNDS_DATA names no folder that holds MNIST/raw")
def test_the_real_mnist():
    source = open_source(DataConfig(name="mnist", root=os.environ["TWOBOUNDS_DATA"]), "test", 0)
    assert len(source) == 10_000
    assert torch.bincount(source.labels[:, 0]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "stl10", "torch/imagenet"])
def test_missing_files_name_the_path_and_the_mend(name, tmp_path):
    with pytest.raises(UserError, match=r"data\.download=true") as error:
        open_source(DataConfig(name=name, root=str(tmp_path / "nothing")), "train", 0)
    assert str(tmp_path / "nothing") in str(error.value)
    assert not (tmp_path / "nothing").exists()


def test_a_missing_folder_says_the_layout(tmp_path):
    with pytest.raises(UserError, match="train/CLASS"):
        open_source(config(tmp_path), "train", 0)


@pytest.mark.parametrize(
    "change, key",
    [({"name": "nmist"}, "mnist"), ({"augment": "simclar"}, "simclr"), ({"validation": 0}, "validation"), ({"memory": -1}, "memory")],
)
def test_impossible_settings_name_their_key(change, key):
    with pytest.raises(ValueError, match=key):
        DataConfig(**change)


def test_more_validation_than_images_is_refused(folder):
    with pytest.raises(UserError, match=r"data\.validation"):
        open_source(config(folder, validation=40), "train", 0)
