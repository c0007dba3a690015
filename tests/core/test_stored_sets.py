"""Data sets that are not folders of images: torchvision's files, web data sets, Hugging Face."""

import io
import json
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.datasets import DataConfig, _plain, open_source
from core.data.readers import open_official
from core.data.source import eval_sampler
from core.errors import UserError
from tests.pictures import config, write_mnist


def test_webdataset_shards(tmp_path):
    pytest.importorskip("webdataset")
    splits = {}
    for split, lengths in (("train", [6, 6]), ("test", [4])):
        for shard, length in enumerate(lengths):
            with tarfile.open(tmp_path / f"{split}-{shard}.tar", "w") as tar:
                for i in range(length):
                    value, file = 6 * shard + i, io.BytesIO()
                    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(file, "PNG")
                    for kind, data in (("png", file.getvalue()), ("cls", str(value % 3).encode())):
                        entry = tarfile.TarInfo(f"{value:05}.{kind}")
                        entry.size = len(data)
                        tar.addfile(entry, io.BytesIO(data))
        files = [f"{split}-{shard}.tar" for shard in range(len(lengths))]
        splits[split] = {
            "name": split,
            "num_samples": sum(lengths),
            "filenames": files,
            "shard_lengths": lengths,
        }
    (tmp_path / "_info.json").write_text(json.dumps({"splits": splits}))
    settings = config(tmp_path, name="wds/local", validation=2, size=0)
    source = open_source(settings, "trainval", 0)
    (batch,) = source.batches(eval_sampler(12), 1)
    values = batch.views[0][:, 0, 0, 0].long()
    assert values.sort().values.tolist() == list(range(12)) and torch.equal(
        batch.label[:, 0], values % 3
    )
    assert source.factors == {"class": 3} and len(open_source(settings, "test", 0)) == 4


@pytest.fixture
def pictures(tmp_path) -> Path:
    """20 pictures of each of two classes; the red value identifies a picture."""
    for c, name in enumerate(("cat", "dog")):
        (tmp_path / "images/train" / name).mkdir(parents=True)
        for i in range(20):
            pixels = np.full((8, 8, 3), (100 * c + i, 50, 200), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"images/train/{name}/{i:02}.png")
    return tmp_path / "images"


def test_hugging_face_sets_are_read_only_from_the_disk(pictures, tmp_path):
    hugging_face = pytest.importorskip("datasets")
    settings = replace(config(tmp_path), name=f"hfds/{pictures}", validation=10)
    found = {}
    for memory in (1.0, 0.0):
        source = open_source(replace(settings, memory=memory), "train", 0)
        (batch,) = source.batches(eval_sampler(30), 1)
        assert torch.equal(batch.label[:, 0], (batch.views[0][:, 0, 4, 4] >= 100).long())
        assert source.factors == {"class": 2} and source.identity.classes == ("cat", "dog")
        found[memory] = source.identity
    assert {"sample", "content"} <= found[0.0].digests.keys()
    assert found[0.0].difference(found[1.0].as_dict()) == ""
    asked = hugging_face.config.HF_HUB_OFFLINE
    with pytest.raises(UserError, match=r"data\.download=true"):
        open_source(replace(config(tmp_path), name="hfds/nobody/nothing"), "train", 0)
    assert asked == hugging_face.config.HF_HUB_OFFLINE, "the switch is restored"


@pytest.mark.parametrize("root", ["pipe:touch {}", "{}/x::pipe:touch {}", "http://localhost/x"])
def test_a_root_is_a_folder_and_neither_a_command_nor_an_address(root, tmp_path, monkeypatch):
    pytest.importorskip("webdataset")
    monkeypatch.chdir(tmp_path)
    settings = replace(config(tmp_path), name="wds/x", root=root.format(*["made"] * 2))
    with pytest.raises(UserError, match=rf"^data\.root: .* read from {tmp_path}/"):
        open_source(settings, "train", 0)
    assert not (tmp_path / "made").exists()


def test_mnist_is_read_from_its_original_files(tmp_path):
    write_mnist(tmp_path)
    source = open_source(
        DataConfig(name="mnist", root=str(tmp_path), validation=5, augment="none"), "test", 0
    )
    (batch,) = source.batches(eval_sampler(10), 1)
    assert source.shape == (1, 28, 28) and source.factors == {"class": 10}
    assert torch.equal(batch.views[0].flatten().long(), torch.arange(10 * 784) % 251)
    assert batch.label[:, 0].tolist() == list(range(10))


def test_only_one_process_at_a_time_downloads(tmp_path, monkeypatch):
    class Fetching:
        def __init__(self, root: str, train: bool, download: bool):
            assert download and not (Path(root) / "half").exists(), "another process downloads them"
            (Path(root) / "half").touch()
            time.sleep(0.05)
            (Path(root) / "half").unlink()

    monkeypatch.setattr("torchvision.datasets.MNIST", Fetching)
    with ThreadPoolExecutor(3) as processes:
        assert (
            len(
                list(
                    processes.map(
                        lambda _: open_official("mnist", str(tmp_path / "new"), True, "train"),
                        range(3),
                    )
                )
            )
            == 3
        )


def test_static_binarisation_is_drawn_once_for_each_image(tmp_path):
    write_mnist(tmp_path)
    plain = DataConfig(name="mnist", root=str(tmp_path), validation=5, augment="none")
    fixed = replace(plain, binarise=True)
    parts = {
        split: open_source(fixed, split, seed).images
        for seed, split in enumerate(("train", "val", "trainval", "test"))
    }
    assert torch.equal(torch.cat([parts["train"], parts["val"]]), parts["trainval"])
    grey = open_source(plain, "trainval", 0).images
    assert parts["trainval"].dtype == grey.dtype and set(parts["trainval"].unique().tolist()) == {
        0,
        255,
    }
    for low, high in (
        (0, 1),
        (1, 90),
        (90, 180),
        (180, 251),
    ):  # for each grey value, the share of white pixels is its probability
        chosen = (grey >= low) & (grey < high)
        expected, n = (grey[chosen] / 255).mean().item(), int(chosen.sum())
        assert (parts["trainval"][chosen] / 255).mean().item() == pytest.approx(
            expected, abs=4 * (0.25 / n) ** 0.5 * (low > 0)
        )
    _plain.cache_clear()
    assert torch.equal(parts["test"], open_source(fixed, "test", 7).images), (
        "the same for every seed of the run"
    )
    assert not torch.equal(parts["test"], parts["trainval"][:10])


def test_binarisation_needs_pixels_that_are_held(tmp_path):
    write_mnist(tmp_path)
    with pytest.raises(UserError, match=r"^data\.binarise: .*data\.memory.*data\.binarise=false$"):
        open_source(
            DataConfig(name="mnist", root=str(tmp_path), validation=5, memory=0.0, binarise=True),
            "train",
            0,
        )


def test_the_real_mnist(mnist_root):
    source = open_source(DataConfig(name="mnist", root=str(mnist_root)), "test", 0)
    assert len(source) == 10_000
    assert torch.bincount(source.labels[:, 0]).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "stl10", "torch/imagenet"])
def test_missing_files_name_the_path_and_the_remedy(name, tmp_path):
    with pytest.raises(UserError, match=r"data\.download=true") as error:
        open_source(DataConfig(name=name, root=str(tmp_path / "nothing")), "train", 0)
    assert str(tmp_path / "nothing") in str(error.value)
    assert not (tmp_path / "nothing").exists()
