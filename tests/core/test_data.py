"""Real data: splits, layouts, streaming, and the messages for missing files."""

import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset

from core.data.datasets import DataConfig, open_source
from core.data.images import Arrays, Stream
from core.data.loading import read_through
from core.data.source import eval_sampler, spread, train_sampler
from core.errors import UserError
from tests.pictures import config, png


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two classes of PNGs, 20 for training and 6 for testing each; the red value of a picture
    identifies it.
    """
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 20), ("test", 6)):
        for c, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((8, 10, 3), (100 * c + i, 50, 200), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i:02}.png")
    return root


def ids(source) -> list[int]:
    (batch,) = source.batches(eval_sampler(len(source), block=1000), 1)
    return batch.views[0][:, 0, 4, 4].tolist()


def test_splits_are_disjoint_and_cover(folder):
    parts = {
        split: ids(open_source(config(folder, validation=10), split, 0))
        for split in ("train", "val", "trainval", "test")
    }
    assert len(parts["train"]) == 30 and len(parts["val"]) == 10 and len(parts["test"]) == 12
    assert sorted(parts["train"] + parts["val"]) == sorted([*range(20), *range(100, 120)])
    assert parts["trainval"] == parts["train"] + parts["val"]
    assert parts["val"] == ids(open_source(config(folder, validation=10), "val", 5)), (
        "the split does not depend on the run's seed"
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_streaming_and_memory_give_the_same_batches(folder, workers):
    held, streamed = (
        open_source(config(folder, memory=memory, augment="simclr", workers=workers), "train", 0)
        for memory in (1.0, 0.0)
    )
    assert isinstance(held, Arrays) and isinstance(streamed, Stream)
    orders = [train_sampler(30, 8, 3, 2, 9) for _ in range(2)]
    for a, b in zip(held.batches(orders[0], 2), streamed.batches(orders[1], 2), strict=True):
        assert torch.equal(a.label, b.label) and torch.equal(a.index, b.index)
        assert all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))
    assert held.shape == streamed.shape == (3, 8, 8) and held.factors == {"class": 2}


def test_grey_images_have_the_one_channel_that_pillow_makes(folder):
    for memory in (1.0, 0.0):
        source = open_source(config(folder, grey=True, memory=memory), "test", 0)
        assert source.shape == (1, 8, 8)
        (batch,) = source.batches(eval_sampler(len(source), block=100), 1)
        expected = [
            Image.new("RGB", (1, 1), (100 * c + i, 50, 200)).convert("L").getpixel((0, 0))
            for c in range(2)
            for i in range(6)
        ]
        assert batch.views[0][:, 0, 4, 4].tolist() == expected
    with pytest.raises(ValueError, match="^grey:"):
        DataConfig(name="sprites", grey=True)


def test_labels_follow_their_images(folder):
    source = open_source(config(folder), "train", 0)
    (batch,) = source.batches(eval_sampler(len(source), block=100), 1)
    assert torch.equal(batch.label[:, 0], (batch.views[0][:, 0, 4, 4] >= 100).long())


def test_images_of_several_shapes_need_a_size(folder, tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        for i, shape in enumerate([(8, 8, 3), (9, 12, 3)] * 3):
            Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / split / "a" / f"{i}.png")
    with pytest.raises(UserError, match=r"data\.size"):
        open_source(config(tmp_path, size=0, validation=1), "test", 0)
    assert open_source(config(tmp_path, size=6, validation=1), "test", 0).shape == (3, 6, 6)


@pytest.mark.parametrize("memory", [0.0, 1.0])
def test_a_mistake_in_a_worker_is_one_line(memory, tmp_path):
    png(tmp_path, "train/a/0.png", "train/a/2.png")
    png(tmp_path, "train/a/1.png", side=(9, 12))
    with pytest.raises(UserError, match=r"^data\.size: image \d has the shape .* have one shape$"):
        source = open_source(
            config(tmp_path, size=0, validation=1, workers=2, memory=memory), "trainval", 0
        )
        list(source.batches(eval_sampler(3), 1))


@pytest.mark.parametrize("damage", [lambda data: b"junk", lambda data: data[: len(data) // 2]])
def test_a_damaged_image_is_named_and_not_replaced(damage, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    png(tmp_path, "train/a/0.png", "train/a/1.png", "train/a/2.png")
    Image.fromarray(noise).save(tmp_path / "train/a/1.png")
    (tmp_path / "train/a/1.png").write_bytes(damage((tmp_path / "train/a/1.png").read_bytes()))
    with pytest.raises(UserError, match=r"train/a/1\.png can not be decoded .* or remove it$"):
        open_source(config(tmp_path, validation=1), "trainval", 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stated_share_of_damaged_images_is_skipped_counted_and_named(workers, tmp_path, capfd):
    png(tmp_path, *(f"train/a/{i}.png" for i in range(10)))
    for broken in (0, 3, 4):
        (tmp_path / f"train/a/{broken}.png").write_bytes(b"junk")
    batches = {}
    for memory in (0.0, 1.0):
        source = open_source(
            config(tmp_path, validation=1, skip=0.31, workers=workers, memory=memory), "trainval", 0
        )
        chosen = (
            next(iter(source.batches(eval_sampler(10, block=10), 1))).views[0][:, 0, 0, 0].tolist()
        )
        said = capfd.readouterr().err.splitlines()
        assert len(said) == 3 and all(
            any(f"{broken}.png can not be decoded" in line for line in said) for broken in (0, 3, 4)
        )
        assert said[-1].endswith("skipped, 3 of at most 3")
        assert set(chosen) == {1, 2, 5, 6, 7, 8, 9}
        order = train_sampler(10, 4, 3, 2, 9)
        batches[memory] = [
            (batch.views[0], batch.label, batch.index) for batch in source.batches(order, 1)
        ]
        assert not capfd.readouterr().err, "each is named once"
    for streamed, held in zip(batches[0.0], batches[1.0], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(streamed, held, strict=True))
    for memory in (0.0, 1.0):
        with pytest.raises(
            UserError,
            match=r"^data\.skip: more than 2 of 10 images .*/\d\.png can not be decoded .*"
            r"larger share than 0\.2$",
        ):
            source = open_source(
                config(tmp_path, validation=1, skip=0.2, workers=workers, memory=memory),
                "trainval",
                0,
            )
            list(source.batches(eval_sampler(10), 1))


@pytest.mark.parametrize("kind", ["bomb.png", "float.png"])
def test_a_picture_that_pillow_refuses_or_can_not_scale_is_named(kind, tmp_path):
    png(tmp_path, "train/a/0.png", "train/a/1.png")
    path = tmp_path / "train/a" / kind
    if kind == "bomb.png":  # a few bytes whose header claims 60,000 x 60,000 pixels
        path.write_bytes((tmp_path / "train/a/0.png").read_bytes())
        data = bytearray(path.read_bytes())
        data[16:24] = struct.pack(">II", 60_000, 60_000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        path.write_bytes(data)
    else:
        Image.fromarray(np.random.default_rng(0).random((8, 8), dtype=np.float32)).save(
            path, "TIFF"
        )
    with pytest.raises(
        UserError, match=rf"^data\.root: .*{kind} can not be decoded \(.*\); repair or remove it$"
    ):
        open_source(config(tmp_path, validation=1), "trainval", 0)


@pytest.mark.parametrize("grey", [False, True])
def test_the_upper_eight_of_sixteen_bits_are_read(grey, tmp_path):
    values = np.arange(64, dtype=np.uint16).reshape(8, 8)
    (tmp_path / "train/a").mkdir(parents=True)
    for i in range(2):
        Image.fromarray(values * 1024 + 255 * i).save(tmp_path / f"train/a/{i}.png")
    source = open_source(config(tmp_path, validation=1, grey=grey), "trainval", 0)
    (batch,) = source.batches(eval_sampler(2), 1)
    assert (batch.views[0] == torch.from_numpy(values * 4).int()).all(), (
        "Pillow's own conversion makes all values above 255 white"
    )


def test_an_image_that_can_not_be_read_is_not_skipped(tmp_path):
    png(tmp_path, "train/a/0.png", "train/a/1.png", "train/a/2.png")
    source = open_source(config(tmp_path, validation=1, skip=0.9, memory=0.0), "trainval", 0)
    (tmp_path / "train/a/1.png").unlink()
    with pytest.raises(
        UserError,
        match=r"^data\.root: image 1: .*1\.png can not be read \(No such file or directory\)",
    ):
        list(source.batches(eval_sampler(3), 1))


def test_classes_are_numbered_as_in_train(tmp_path):
    png(
        tmp_path,
        *(f"train/{c}/{i}.png" for c in "abc" for i in range(2)),
        "test/b/0.png",
        "test/c/0.png",
    )
    source = open_source(config(tmp_path, validation=1), "test", 0)
    (batch,) = source.batches(eval_sampler(2), 1)
    assert source.factors == {"class": 3} and batch.label[:, 0].tolist() == [1, 2]
    png(tmp_path, "test/d/0.png")
    with pytest.raises(UserError, match="holds the class 'd'"):
        open_source(config(tmp_path, validation=2), "test", 0)


@pytest.mark.parametrize("memory", [0.0, 1.0])
def test_the_shape_of_a_source_is_that_of_its_views(memory, tmp_path):
    png(tmp_path, "train/a/0.png", "train/a/1.png", side=(8, 12))
    for augmented in (True, False):
        source = open_source(
            config(tmp_path, size=0, validation=1, memory=memory, augment="simclr"),
            "trainval",
            0,
            augmented,
        )
        (batch,) = source.batches(eval_sampler(2), 1)
        assert batch.views[0].shape[1:] == source.shape


def test_reading_does_not_use_torchs_generator(folder):
    before = torch.get_rng_state()
    for memory in (0.0, 1.0):
        list(
            open_source(config(folder, memory=memory, validation=9), "val", 0).batches(
                eval_sampler(9), 2
            )
        )
    assert torch.equal(before, torch.get_rng_state())


class Sequence(IterableDataset):
    """Replaces timm's reader of a set without random access: pictures of value i, class i mod 3."""

    def __init__(self, given: int, promised: int):
        self.given, self.promised, self.reader = given, promised, None

    def __len__(self) -> int:
        return self.promised

    def __iter__(self):
        return (
            (Image.fromarray(np.full((8, 8, 3), i, np.uint8)), i % 3) for i in range(self.given)
        )


def test_a_set_without_random_access_is_read_once_in_its_own_order():
    images, labels = read_through(Sequence(10, 10), 0, 10 * 192)
    assert images[:, 0, 0, 0].tolist() == list(range(10)) and labels[:, 0].tolist() == [
        i % 3 for i in range(10)
    ]
    with pytest.raises(UserError, match=r"^data\.memory: "):
        read_through(Sequence(10, 10), 0, 10 * 192 - 1)
    with pytest.raises(UserError, match="9 of 10 images could be read"):
        read_through(Sequence(9, 10), 0, 2**20)


def test_a_missing_folder_is_reported_with_the_expected_layout(tmp_path):
    with pytest.raises(UserError, match="train/CLASS"):
        open_source(config(tmp_path), "train", 0)


@pytest.mark.parametrize(
    "change, key",
    [
        ({"name": "nmist"}, "mnist"),
        ({"augment": "simclar"}, "simclr"),
        ({"validation": 0}, "validation"),
        ({"memory": -1}, "memory"),
        ({"binarise": True}, "binarise: sprites"),
    ],
)
def test_impossible_settings_name_their_key(change, key):
    with pytest.raises(ValueError, match=key):
        DataConfig(**change)


def test_more_validation_than_images_is_refused(folder):
    with pytest.raises(UserError, match=r"data\.validation"):
        open_source(config(folder, validation=40), "train", 0)


@pytest.mark.parametrize(
    "n, most, places",
    [(10, 4, [0, 2, 5, 7]), (5, 5, [0, 1, 2, 3, 4]), (3, 9, [0, 1, 2]), (1000, 3, [0, 333, 666])],
)
def test_some_images_are_spread_over_the_whole_split(n, most, places):
    """Stored sets are often sorted by class: the first images would be of one."""
    blocks = [index for index, _ in eval_sampler(n, block=2, most=most)]
    assert torch.cat(blocks).tolist() == places and max(map(len, blocks)) <= 2


@pytest.mark.parametrize("n, most, block", [(12, 5, 3), (100, 33, 8), (10, 9, 4), (7, 7, 2)])
def test_blocks_of_neighbours_are_spread_over_the_whole_split(n, most, block):
    """`most` places in order, of whole blocks (the last one may be cut), from all parts of it."""
    places = spread(n, most, block)
    assert places.tolist() == sorted(set(places.tolist())) and len(places) == most
    blocks = places.div(block, rounding_mode="floor")
    counts = blocks.bincount(minlength=-(-n // block))
    sizes = torch.arange(n).div(block, rounding_mode="floor").bincount()
    some = counts.nonzero()[:, 0]
    assert (counts[some[:-1]] == sizes[some[:-1]]).all()
    gaps = some.diff().tolist()
    even = len(counts) / len(some)
    assert all(math.floor(even) <= gap <= math.ceil(even) for gap in gaps) and some[0] == 0
    assert len(counts) - some[-1] <= math.ceil(even)
