"""Small folders of pictures, and the values that a source reads from them."""

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from core.data.datasets import DataConfig, open_source
from core.data.skipping import Split
from core.data.source import Source, eval_sampler


def config(root: Path, **more) -> DataConfig:
    """A folder data set of 8 x 8 images without augmentation, decoded in this process.

    Classes without a test split get one, so that none is cut from the training images.
    """
    classes = sorted(path for path in (root / "train").glob("[!.]*") if path.is_dir())
    if classes and not any((root / name).exists() for name in ("test", "val", "validation")):
        png(root, f"test/{classes[0].name}/added.png")
    small = {"name": "folder", "root": str(root), "validation": 1, "augment": "none", "size": 8}
    return DataConfig(**{**small, "workers": 0, **more})


def png(root: Path, *names: str, side: tuple[int, int] = (8, 8)) -> None:
    """Write small pictures, one for each name and each of one grey value, and their folders."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*side, 3), i, np.uint8)).save(root / name)


def first_values(source: Source) -> list[int]:
    """The red value of each image's first pixel, in order."""
    (batch,) = source.batches(eval_sampler(len(source), block=1000), 1)
    return batch.views[0][:, 0, 0, 0].tolist()


def labels(source: Source) -> list[int]:
    (batch,) = source.batches(eval_sampler(len(source), block=1000), 1)
    return batch.label[:, 0].tolist()


def write_mnist(root: Path, name: str = "MNIST") -> None:
    """Write 30 training and 10 test images in the file format of MNIST and similar sets."""
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for name, n in (("train", 30), ("t10k", 10)):
        images, classes = np.arange(n * 784, dtype=np.int64) % 251, np.arange(n) % 10
        for kind, magic, dims, values in (
            ("images-idx3", 2051, (n, 28, 28), images),
            ("labels-idx1", 2049, (n,), classes),
        ):
            header = struct.pack(f">{1 + len(dims)}i", magic, *dims)
            data = header + values.astype(np.uint8).tobytes()
            (raw / f"{name}-{kind}-ubyte").write_bytes(data)
            with gzip.open(raw / f"{name}-{kind}-ubyte.gz", "wb") as file:
                file.write(data)


class ActingImages:
    """Images that hold their number; `act` is called for each, in the worker."""

    def __init__(self, act):
        self.act = act

    def __getitem__(self, index: int):
        self.act(index)
        return torch.full((3, 4, 4), index, dtype=torch.uint8), 0, 0


def acting_split(act) -> Split:
    """A split of twelve such images."""
    return Split(ActingImages(act), torch.arange(12), 0.0)


PLAIN = {"name": "folder", "augment": "none", "size": 8, "workers": 0}


def opened(root: Path, split: str, **more):
    return open_source(DataConfig(**{**PLAIN, "root": str(root), **more}), split, 0)


def all_labels(source) -> list[list[int]]:
    (batch,) = source.batches(eval_sampler(len(source), block=1000), 1)
    return batch.label.tolist()


def numbered(root: Path, n: int, where: str = "{}.png") -> None:
    png(root, *(where.format(i) for i in range(n)))


def table(root: Path, text: str, name: str = "list.csv") -> None:
    (root / name).write_text(text)
