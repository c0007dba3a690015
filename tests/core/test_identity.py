"""The identity of a split: equal for equal data in any folder, and different for any change."""

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.datasets import DataConfig, _plain, open_source
from core.data.identity import Identity, digest, digest_of_sample
from core.data.linear_gaussian import LinearGaussianConfig
from core.data.sprites import Sprites, SpritesConfig
from tests.pictures import config, png, write_mnist

FILES = [f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(6)] + ["test/cat/0.png"]


@pytest.fixture
def root(tmp_path) -> Path:
    png(tmp_path / "a", *FILES)
    return tmp_path / "a"


def identity(root: Path, split: str = "trainval", **more):
    _plain.cache_clear()
    return open_source(config(root, **more), split, 0).identity


def test_the_same_content_elsewhere_is_the_same_data(root, tmp_path):
    first = identity(root)
    shutil.copytree(root, tmp_path / "b")
    for path in (tmp_path / "b").rglob("*.png"):
        os.utime(path, ns=(1, 1))
    second = identity(tmp_path / "b")
    assert second.fingerprint == first.fingerprint and second.root != first.root
    assert first.difference(second.as_dict()) == ""
    again = identity(root, augment="simclr", workers=1, skip=0.5)
    assert again.fingerprint == first.fingerprint, "neither views nor workers change the images"
    assert len(first.fingerprint) == 64 and json.loads(json.dumps(first.as_dict())) == {
        **first.as_dict(),
        "images": 12,
        "shape": [3, 8, 8],
        "classes": ["cat", "dog"],
    }


def other_pixels(root):
    Image.new("RGB", (8, 8), "red").save(root / "train/cat/0.png")


def other_labels(root):
    for i, j in ((1, 7), (2, 8)):
        (root / f"train/cat/{i}.png").rename(root / "swap.png")
        (root / f"train/dog/{j - 6}.png").rename(root / f"train/cat/{i}.png")
        (root / "swap.png").rename(root / f"train/dog/{j - 6}.png")


def more_images(root):
    png(root, "train/cat/8.png")


def other_class(root):
    (root / "train/dog").rename(root / "train/wolf")


@pytest.mark.parametrize("memory", [1.0, 0.0], ids=["held", "streamed"])
@pytest.mark.parametrize(
    "change, said",
    [
        (other_pixels, {1.0: "other pixels", 0.0: "other files"}),
        (other_labels, {1.0: "other pixels", 0.0: "other files"}),
        (more_images, {1.0: "13 images instead of 12", 0.0: "13 images instead of 12"}),
        (other_class, {1.0: "class 'wolf' is new", 0.0: "class 'wolf' is new"}),
    ],
)
def test_a_change_in_place_is_detected_and_reported(change, said, memory, root):
    before = identity(root, memory=memory)
    change(root)
    after = identity(root, memory=memory)
    assert after.fingerprint != before.fingerprint
    difference = after.difference(json.loads(json.dumps(before.as_dict())))
    assert difference.startswith(said[memory]) and "\n" not in difference, difference


def test_changed_labels_of_the_same_images_are_detected(tmp_path):
    png(tmp_path, *FILES)
    before = identity(tmp_path)
    # the order of the files stays: cat/0 ... cat/5, this one, dog/1 ...
    (tmp_path / "train/dog/0.png").rename(tmp_path / "train/cat/7.png")
    after = identity(tmp_path)
    assert after.difference(before.as_dict()) == "other labels"
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize(
    "key, value", [("size", 6), ("grey", True), ("binarise", True), ("validation", 3), ("bits", 12)]
)
def test_settings_of_pixels_and_splits_are_part_of_the_identity(key, value, root):
    before, after = identity(root), identity(root, **{key: value})
    assert after.fingerprint != before.fingerprint
    old = getattr(config(root), key)
    assert f"{key} is {value} here and {old} there" in after.difference(before.as_dict())


def test_train_and_test_differ_and_memory_does_not(root):
    held, streamed = (identity(root, memory=memory) for memory in (1.0, 0.0))
    assert streamed.difference(held.as_dict()) == held.difference(streamed.as_dict()) == ""
    assert identity(root, "test").fingerprint != identity(root, "val").fingerprint
    other_pixels(root)
    assert identity(root, memory=0.0).difference(held.as_dict()).startswith("other files")


def test_a_streamed_array_is_known_by_its_content(tmp_path):
    write_mnist(tmp_path)
    settings = DataConfig(name="mnist", root=str(tmp_path), validation=5, size=32, memory=0.0)
    settings.workers = 0
    before = open_source(settings, "train", 0).identity
    assert before.classes[3] == "3 - three" and before.shape == (1, 32, 32)
    images = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    data = bytearray(images.read_bytes())
    data[16:] = bytes(len(data) - 16)
    images.write_bytes(data)
    _plain.cache_clear()
    after = open_source(settings, "train", 0).identity
    assert after.difference(before.as_dict()) == "other stored images"
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize(
    "there",
    [None, 7, {}, {"digests": 3, "settings": [], "classes": "x"}, {"shape": "\x1b[31m" * 99}],
)
def test_a_stranger_s_description_is_one_short_line(there, root):
    said = identity(root).difference(there)
    assert said and said.isprintable() and len(said) < 700


def test_embedded_data_are_known_by_config_seed_and_rendering(monkeypatch):
    def of(seed=0, split="test", **sizes):
        sprites = SpritesConfig(train=64, validation=16, test=100, **sizes)
        return open_source(DataConfig(sprites=sprites), split, seed).identity

    first = of()
    assert first.fingerprint == of().fingerprint and first.difference(of().as_dict()) == ""
    assert "seed is 1 here and 0 there" in of(seed=1).difference(first.as_dict())
    assert "grid is 2 here and 3 there" in of(grid=2).difference(first.as_dict())
    assert len({first.fingerprint, of(seed=1).fingerprint, of(split="val").fingerprint}) == 3
    monkeypatch.setattr("core.data.sprites.TINT", 0.4)
    assert of().fingerprint == first.fingerprint, "these sprites have no tint"
    monkeypatch.setattr("core.data.sprites.SHRINK", 0.66)
    assert of().difference(first.as_dict()) == "other images, in a sample"
    assert of().fingerprint != first.fingerprint


def test_a_sample_survives_another_rounding_and_sees_a_slight_change():
    g = torch.Generator().manual_seed(0)
    for images in (
        torch.randn(64, 1, 8, 8, generator=g),
        torch.randint(256, (64, 3, 32, 32), generator=g, dtype=torch.uint8),
    ):
        same = digest_of_sample(images)
        if images.is_floating_point():
            assert digest_of_sample(images * (1 + 1e-7)) == same
            assert digest_of_sample(images * 1.01) != same
        else:
            few = images.clone()
            few.view(-1)[12] ^= 1  # one value of 196,608 is rounded to the other side
            assert digest_of_sample(few) == same
            assert digest_of_sample((images.int() + 1).clamp(max=255).byte()) != same


def test_linear_gaussian_images_are_known_by_their_spectrum():
    def of(**more):
        section = LinearGaussianConfig(side=4, rank=3, train=64, validation=16, test=64, **more)
        data = DataConfig(name="linear_gaussian", augment="none", linear_gaussian=section)
        return open_source(data, "test", 0).identity

    assert of().fingerprint == of().fingerprint != of(noise=0.06).fingerprint


def test_a_digest_reads_every_byte_and_the_threads_do_not_matter():
    x = torch.zeros(2**24 + 5, dtype=torch.uint8)
    before, threads = digest(x), torch.get_num_threads()
    torch.set_num_threads(1)
    assert digest(x) == before
    torch.set_num_threads(threads)
    x[-1] = 1
    assert digest(x) != before and digest(x.view(-1)[:-5]) != before


def test_files_that_moved_or_were_copied_are_the_same_data(root, tmp_path):
    before = identity(root, memory=0.0)
    for path in root.rglob("*.png"):
        os.utime(path, ns=(5, 5))
    shutil.copytree(root, tmp_path / "b")
    for place in (root, tmp_path / "b"):
        after = identity(place, memory=0.0)
        assert after.difference(before.as_dict()) == ""
        assert after.fingerprint == before.fingerprint


def changed_alike(root):
    """Change a byte of a file, but keep its size and its time of change."""
    path = root / "train/cat/0.png"
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def renamed(root):
    (root / "train/cat/0.png").rename(root / "train/cat/00.png")


@pytest.mark.parametrize("change", [changed_alike, renamed])
def test_files_are_known_by_path_and_content(change, root):
    before = identity(root, memory=0.0)
    change(root)
    after = identity(root, memory=0.0)
    assert after.difference(before.as_dict()) == "other files (names or contents)"
    assert after.fingerprint != before.fingerprint


def touched(root):
    os.utime(root / "train/cat/0.png", ns=(7, 7))


@pytest.mark.parametrize("change", [touched, renamed])
def test_files_that_are_long_to_read_are_known_by_their_times(change, root, monkeypatch):
    monkeypatch.setattr("core.data.images.QUICKLY_READ", 0)
    monkeypatch.setattr("core.data.images._digest_of_file", lambda path: pytest.fail("was read"))
    before = identity(root, memory=0.0)
    assert identity(root, memory=0.0).difference(before.as_dict()) == ""
    change(root)
    after = identity(root, memory=0.0)
    assert after.difference(before.as_dict()) == "other files (names, sizes or times of change)"
    assert after.fingerprint != before.fingerprint


def test_an_identity_is_computed_once_and_only_on_demand(root, monkeypatch):
    _plain.cache_clear()
    sources = [open_source(config(root), "trainval", 0, augmented) for augmented in (True, False)]
    calls = []
    monkeypatch.setattr("core.data.images.digest", lambda data: calls.append(1) or digest(data))
    first, second = (source.identity for source in sources)
    assert first is second and len(calls) == 2, "pixels and labels, once"


def test_the_size_of_mnist_is_known_faster_than_a_few_batches():
    from core.data.images import Arrays

    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (57_952, 1, 28, 28), dtype=np.uint8))
    source = Arrays(images, torch.zeros(len(images), 1, dtype=torch.long), {"class": 1})
    start = time.process_time()
    source.identity  # noqa: B018
    hashed = time.process_time() - start
    start = time.process_time()
    for _ in range(20):
        images.float().mean()
    assert hashed < 20 * (time.process_time() - start), "not slower than reading it several times"


def test_the_identity_of_sprites_has_their_settings_and_not_their_place():
    source = Sprites(SpritesConfig(train=64), "train", 0)
    assert source.identity.settings == {**source.config.__dict__, "seed": 0}
    assert replace(source.identity, root="elsewhere").fingerprint == source.identity.fingerprint


def test_a_population_is_one_split_of_one_set_for_any_seed():
    """Numbers of train and of test are not comparable, also if the splits are of equal size."""

    def of(seed=0, split="test", **sizes):
        sprites = SpritesConfig(**({"train": 64, "validation": 64, "test": 64} | sizes))
        return open_source(DataConfig(sprites=sprites), split, seed).identity.population

    assert of() == of(seed=1) == of(seed=7)
    others = {of(split="val"), of(split="train"), of(test=65), of(grid=2), of(colours=3)}
    assert len(others) == 5 and of() not in others


KNOWN = Identity(
    "mine", "test", "/here", 9, (1, 2, 3), {"a": 2, "b": 3}, ("x", "y"),
    {"size": 8, "grey": True, "seed": 0}, {"contents": "c", "labels": "l"},
)  # fmt: skip
CHANGES = {
    "split": "val", "images": 8, "shape": (3, 2, 1), "factors": {"a": 2, "b": 4},
    "classes": ("y", "x"), "settings": {"size": 8, "grey": False, "seed": 0},
    "digests": {"contents": "d", "labels": "l"},
}  # fmt: skip


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_of_an_identity_changes_its_fingerprint(field):
    other = replace(KNOWN, **{field: CHANGES[field]})
    assert other.fingerprint != KNOWN.fingerprint
    # a population is drawn anew: its digests and classes are not those of the population
    assert (other.population == KNOWN.population) == (field in ("classes", "digests"))


def test_neither_the_place_nor_the_order_of_settings_changes_a_fingerprint():
    turned = dict(reversed(KNOWN.settings.items()))
    same = replace(KNOWN, root="/there", settings=turned)
    assert same.fingerprint == KNOWN.fingerprint and same.population == KNOWN.population
    assert replace(KNOWN, name="yours").fingerprint == KNOWN.fingerprint
    assert replace(KNOWN, name="yours").population != KNOWN.population
    seeded = replace(KNOWN, settings=KNOWN.settings | {"seed": 1})
    assert seeded.fingerprint != KNOWN.fingerprint and seeded.population == KNOWN.population
    held = replace(KNOWN, digests={"pixels": "p", "labels": "l"})
    copied = replace(held, digests=held.digests | {"contents": "other files"})
    assert held.fingerprint == copied.fingerprint  # pixels and labels say everything
    for key in ("pixels", "labels"):
        assert replace(held, digests=held.digests | {key: "n"}).fingerprint != held.fingerprint
    assert KNOWN.as_dict()["fingerprint"] == KNOWN.fingerprint
