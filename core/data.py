"""Data sets by name: the embedded sprites, torchvision's, and everything that timm opens.

The "val" split is held out of the official train split by a permutation of a fixed seed, so that a probe finds the images that pretraining
has not seen whatever the run's seed was. "trainval" is train followed by val; "test" is read once.
"""

from core.errors import UserError, nearest
from core.images import Arrays, Resized, Stream, decode
from core.randomness import Draws
from core.source import Source
from core.sprites import Sprites, SpritesConfig
from core.views import policy

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.data import create_dataset
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset
from torchvision import datasets

SPLITS = ("train", "val", "trainval", "test")
TORCHVISION = ("mnist", "cifar10", "cifar100", "stl10")
NAMES = ("sprites", *TORCHVISION, "folder")
PREFIXES = ("hfds/", "wds/", "tfds/", "torch/")  # timm's own names for other places


@dataclass
class DataConfig:
    """Which images, and what a view of them is."""

    name: str = "sprites"  # sprites | mnist | cifar10 | cifar100 | stl10 | folder | hfds/NAME | wds/NAME | tfds/NAME | torch/NAME
    root: str = "data"
    download: bool = False
    size: int = 0  # images are resized to this side; 0 = as they are stored
    augment: str = "simclr"  # simclr | moco | crop | none
    probe_augment: str = ""  # what makes the two views of the information probe; empty = augment
    validation: int = 2048  # images held out of the official train split
    workers: int = 2  # processes that decode
    memory: float = 2.0  # GiB; a split up to this size is held as one uint8 tensor, a larger one streams
    sprites: SpritesConfig = field(default_factory=SpritesConfig)

    def __post_init__(self) -> None:
        if not (self.name in NAMES or self.name.startswith(PREFIXES)):
            raise ValueError(f"name: there is no '{self.name}'{nearest(self.name, [*NAMES, *PREFIXES])}")
        for key in ("augment", "probe_augment"):
            try:
                policy(getattr(self, key) or self.augment, 32)
            except UserError as error:
                raise ValueError(str(error).replace("data.augment", key)) from None
        for key, least in (("size", 0), ("validation", 1), ("workers", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"{key}: must be {least} or more, got {getattr(self, key)}")
        if not 0 <= self.memory < math.inf:
            raise ValueError(f"memory: must be 0 or more GiB, got {self.memory}")


def open_source(config: DataConfig, split: str, seed: int, augmented: bool = True) -> Source:
    """One split as a source. `augmented=False` gives the plain image as every view (a fresh rendering, for sprites).

    `seed` matters to sprites alone. Raises `UserError` where files are missing, naming the path and the mend.
    """
    if split not in SPLITS:
        raise UserError(f"split: there is no '{split}'{nearest(split, SPLITS)}")
    if config.name == "sprites":
        return Sprites(config.sprites, split, seed)
    name = config.augment if augmented else "none"
    dataset = _open(config, "test" if split == "test" else "train")
    if isinstance(dataset, IterableDataset):
        raise UserError(
            f"data.name: '{config.name}' can only be read in sequence, and batches are a function of (seed, step);"
            " use a copy with random access, such as hfds/"
        )
    chosen = torch.arange(len(dataset)) if split == "test" else _part(len(dataset), split, config.validation)  # type: ignore[arg-type]
    classes = _classes(dataset)
    resized = Resized(dataset, config.size)
    shape = resized.shape
    view = policy(name, shape[1])
    if math.prod(shape) * len(chosen) <= config.memory * 2**30:
        images, labels = decode(resized, chosen, config.workers)
        return Arrays(images, labels, {"class": classes}, view)
    return Stream(resized, chosen, {"class": classes}, view, config.workers)


def _part(n: int, split: str, validation: int) -> Tensor:
    """Indices of a part of the official train split."""
    if validation >= n:
        raise UserError(f"data.validation: {validation} images can not be held out of {n}")
    order = Draws(0, 0).permutation("validation split", n)
    train, val = order[validation:].sort().values, order[:validation].sort().values
    return {"train": train, "val": val, "trainval": torch.cat([train, val])}[split]


def _open(config: DataConfig, split: str) -> Dataset[Any]:
    """The official train or test split, undecoded where it allows that."""
    root = Path(config.root)
    try:
        if config.name == "stl10":
            return datasets.STL10(str(root), split=split, download=config.download)
        if config.name in TORCHVISION:
            kind = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[config.name]
            return kind(str(root), train=split == "train", download=config.download)
        if config.name == "folder":
            return create_dataset("", root=str(_folder(root, split)), split=split, search_split=False)
        parts = {"train": "train", "test": "validation" if config.name.startswith("torch/") else "test"}
        return create_dataset(config.name, root=str(root), split=parts[split], download=config.download)
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"data.name: '{config.name}' needs a package that is not installed ({error}); pip install it") from None
    except (RuntimeError, OSError, ValueError, AssertionError, EOFError) as error:
        mend = (
            f"put the files there, name another data.root, or let them be fetched with data.download=true; {type(error).__name__}: {error}"
        )
        raise UserError(f"data.root: {config.name} ({split}) was not found in {root.resolve()}; {mend}") from None


def _folder(root: Path, split: str) -> Path:
    """root/train and root/test (or root/val): one folder a class."""
    for name in [split] if split == "train" else ["test", "val", "validation"]:
        if (root / name).is_dir():
            return root / name
    raise UserError(
        f"data.root: {root.resolve()} holds no folder '{split}'; name=folder expects {root}/train/CLASS/*.jpg and {root}/test/CLASS/*.jpg"
    )


def _classes(dataset: Any) -> int:
    """The number of classes, from the official names and never from the labels of a test split."""
    if hasattr(dataset, "classes"):
        return len(dataset.classes)
    mapping = getattr(getattr(dataset, "reader", None), "class_to_idx", None)
    if mapping:
        return len(mapping)
    features = getattr(getattr(getattr(dataset, "reader", None), "dataset", None), "features", None) or {}
    for value in features.values() if hasattr(features, "values") else []:
        if hasattr(value, "num_classes"):
            return int(value.num_classes)
    return int(max(int(dataset[i][1]) for i in range(len(dataset)))) + 1
