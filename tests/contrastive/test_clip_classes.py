"""CLIP on MNIST and CIFAR-10 with captions that are made from class names: smoke tests of stored
images with captions.
"""

import tarfile
from pathlib import Path

import pytest

from core.frozen import Frozen
from probes.texts.reader import reader
from probes.texts.zero_shot import ZeroShotProbe
from tests.in_process import CONFIGS, call

TRAIN, TEST = 50, 20  # pictures of each class


@pytest.fixture(scope="module")
def cifar_root(data_places, tmp_path_factory) -> Path:
    """A folder with pictures of CIFAR-10, train/CLASS/*.jpg and test/CLASS/*.jpg: some of its test
    split, with which the archive begins.
    """
    packed = [path for place in data_places if (path := place / "cifar10-jpeg.tar.xz").is_file()]
    if not packed:
        pytest.skip(f"no cifar10-jpeg.tar.xz in {data_places}; TWOBOUNDS_DATA names a folder")
    top, counts = tmp_path_factory.mktemp("cifar"), {}
    with tarfile.open(packed[0], "r|xz") as file:
        for member in file:
            split, _, name = member.name.partition("/")[2].rpartition("/")[0].partition("/")
            if split == "train":
                break
            number = counts[name] = counts.get(name, -1) + 1
            if member.isfile() and number < TRAIN + TEST:
                place = top / ("train" if number < TRAIN else "test") / name
                place.mkdir(parents=True, exist_ok=True)
                found = file.extractfile(member)
                assert found
                (place / f"{number}.jpg").write_bytes(found.read())
    return top


def named(folder: Path, *words: str) -> tuple[float, float]:
    """Train with captions of class names. The accuracy of zero-shot classification, and that of a
    linear reader of captions. The report must say that labels were used.
    """
    more = ["data.captions=from_classes", "data.augment=none", "wandb=disabled", "optim.lr=3e-3"]
    more += ["model.vocabulary=64", "model.width=32", "trainer.validate_every=0"]
    done = call(str(CONFIGS / "clip_sprites.yaml"), *more, *words, f"folder={folder}")
    assert done.code == 0, done
    frozen, probe = Frozen.load(folder / "last.ckpt"), ZeroShotProbe()
    numbers = probe.measure(frozen).numbers
    assert "this is supervised classification" in probe.sentences(numbers)[-1]
    (label,) = reader(frozen)["labels"].values()
    return numbers["parts"]["all"]["codes"]["class"]["value"], label["top1"]


def test_digits_are_named(mnist_root, tmp_path: Path):
    words = ["data.name=mnist", f"data.root={mnist_root}", "data.validation=55000"]
    words += ["optim.epochs=1", "optim.batch_size=128"]
    digits, read = named(tmp_path / "run", *words)
    assert digits > 0.6
    assert read > 0.99  # captions name the class


def test_things_of_cifar_are_named(cifar_root, tmp_path: Path):
    words = ["data.name=folder", f"data.root={cifar_root}", "data.size=16", "data.validation=50"]
    words += ["optim.epochs=8", "optim.batch_size=50", "optim.warmup_epochs=1", "data.workers=0"]
    things, read = named(tmp_path / "run", *words)
    assert things > 0.17  # of 200 pictures; by chance 0.1 +- 0.02
    assert read > 0.99
