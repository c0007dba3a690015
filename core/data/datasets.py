"""Data sets by name: the embedded sprites and linear-Gaussian images, torchvision's, and everything
that timm opens.

The "val" split is held out of the official train split by a permutation of a fixed seed, so that a
probe finds the images that pretraining has not seen whatever the run's seed was. "trainval" is
train followed by val; "test" is read once. Classes are those of the train split.

A set that can only be read in sequence (wds/, tfds/) is read once, in its own order, and held:
batches are a function of (seed, step), which takes random access.
"""

from core.data.doubtful import refuse_doubtful
from core.data.images import Arrays, Resized, Stream, decode, read_through
from core.data.linear_gaussian import LinearGaussian, LinearGaussianConfig
from core.data.skipping import Split
from core.data.source import Source
from core.data.sprites import Sprites, SpritesConfig
from core.data.views import policy
from core.errors import UserError, nearest
from core.randomness import KeyedRNG

import contextlib
import copy
import functools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from huggingface_hub import constants as hub
from timm.data import ImageDataset, create_dataset
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset
from torchvision import datasets

SPLITS = ("train", "val", "trainval", "test")
TORCHVISION = ("mnist", "cifar10", "cifar100", "stl10")
EMBEDDED = ("sprites", "linear_gaussian")  # made, not read; every view of an image is made afresh
NAMES = (*EMBEDDED, *TORCHVISION, "folder")
PREFIXES = ("hfds/", "wds/", "tfds/", "torch/")  # timm's own names for other places
PACKAGES = {"hfds": "datasets", "wds": "webdataset", "tfds": "tensorflow-datasets"}


@dataclass
class DataConfig:
    """Which images, and what a view of them is."""

    # sprites | linear_gaussian | mnist | cifar10 | cifar100 | stl10 | folder |
    # {hfds,wds,tfds,torch}/NAME
    name: str = "sprites"
    root: str = "data"
    download: bool = False
    size: int = 0  # images are resized to this side; 0 = as they are stored
    grey: bool = False  # images are read with one channel, whatever the files hold
    # pixels are drawn as black or white once, with their grey value's probability, the same in
    # every run
    binarise: bool = False
    augment: str = "simclr"  # simclr | moco | crop | none
    probe_augment: str = ""  # what makes the two views of the information probe; empty = augment
    # share of a split that may be images that can not be decoded; another image of the split stands
    # in for each
    skip: float = 0.001
    validation: int = 2048  # images held out of the official train split
    workers: int = 2  # processes that decode
    # make views through torch.compile: seconds at the start, then about 1.5 times as many images
    # per second
    compile: bool = False
    # GiB; a split up to this size is held as one uint8 tensor, decoded once a process; a larger one
    # streams
    memory: float = 2.0
    sprites: SpritesConfig = field(default_factory=SpritesConfig)
    linear_gaussian: LinearGaussianConfig = field(default_factory=LinearGaussianConfig)
    # no key of a config: those keys whose values come from a file of unknown origin
    doubtful: Any = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (self.name in NAMES or self.name.startswith(PREFIXES)):
            raise ValueError(
                f"name: there is no '{self.name}'{nearest(self.name, [*NAMES, *PREFIXES])}"
            )
        for key in ("augment", "probe_augment"):
            try:
                policy(getattr(self, key) or self.augment, 32)
            except UserError as error:
                raise ValueError(str(error).replace("data.augment", key)) from None
        for key, least in (("size", 0), ("validation", 1), ("workers", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"{key}: must be {least} or more, got {getattr(self, key)}")
        for key, on in (("grey", self.grey), ("binarise", self.binarise)):
            if on and self.name in EMBEDDED:
                raise ValueError(
                    f"{key}: {self.name} makes its images afresh each time, as it makes them; set"
                    " it to false"
                )
        if not 0 <= self.skip < 1:
            raise ValueError(f"skip: must be a share in [0, 1), got {self.skip}")
        if not 0 <= self.memory < math.inf:
            raise ValueError(f"memory: must be 0 or more GiB, got {self.memory}")
        if self.name == "linear_gaussian":
            for key, allowed in (
                ("augment", ("none",)),
                ("probe_augment", ("", "none")),
                ("size", (0, self.linear_gaussian.side)),
            ):
                if getattr(self, key) not in allowed:
                    mend = "set linear_gaussian.side" if key == "size" else f"set {key}=none"
                    raise ValueError(
                        f"{key}: '{getattr(self, key)}' is for 8-bit images, and"
                        f" linear_gaussian's values are real; {mend}"
                    )

    @property
    def views_differ(self) -> bool:
        """Whether two views of an image are two pictures; embedded data are made afresh whatever
        `augment` says.
        """
        return self.augment != "none" or self.name in EMBEDDED


def open_source(config: DataConfig, split: str, seed: int, augmented: bool = True) -> Source:
    """One split as a source. `augmented=False` gives the plain image as every view (a fresh
    rendering, for embedded data).

    `seed` matters to embedded data alone. Raises `UserError` where files are missing or damaged,
    naming the path and the mend.
    """
    if split not in SPLITS:
        raise UserError(f"split: there is no '{split}'{nearest(split, SPLITS)}")
    refuse_doubtful(config, config.name in EMBEDDED)
    if config.name == "sprites":
        return Sprites(config.sprites, split, seed)
    if config.name == "linear_gaussian":
        return LinearGaussian(config.linear_gaussian, split, seed)
    place = (config.name, config.root, config.download)
    reading = Reading(*(getattr(config, key) for key in Reading._fields))
    source = copy.copy(_plain(place, split, reading))
    source.policy = replace(
        policy(config.augment if augmented else "none", source.shape[1]), compile=config.compile
    )
    return source


Place = tuple[str, str, bool]  # name, root, download


class Reading(NamedTuple):
    """What of a `DataConfig` decides which images a split holds, and how they are held."""

    size: int
    grey: bool
    binarise: bool
    skip: float
    validation: int
    workers: int
    memory: float


@functools.lru_cache(maxsize=2)  # a run opens train and val twice, with and without augmentation
def _plain(place: Place, split: str, reading: Reading) -> Arrays | Stream:
    """One split, its images unaltered."""
    dataset, room, size = (
        _open(place, "test" if split == "test" else "train"),
        reading.memory * 2**30,
        reading.size,
    )
    train = dataset if split != "test" else _open(place, "train")
    if isinstance(dataset, IterableDataset):
        images, labels = read_through(dataset, size, room, reading.grey)
        chosen = _part(len(images), split, reading.validation)
        classes = (
            int(
                (
                    labels if train is dataset else read_through(train, size, room, reading.grey)[1]
                ).max()
            )
            + 1
        )
        images, labels = images[chosen], labels[chosen]
    else:
        resized, classes = Resized(dataset, size, reading.grey, reading.skip), _classes(train)
        chosen = _part(len(resized), split, reading.validation)
        part = Split(resized, chosen, reading.skip)
        if math.prod(resized.shape) * len(part) > room:
            if reading.binarise:
                raise UserError(
                    "data.binarise: pixels are fixed where a split is held in memory, and"
                    f" {place[0]} ({split}) takes more than the"
                    f" {reading.memory:g} GiB of data.memory; allow more, or set"
                    " data.binarise=false"
                )
            return Stream(
                part,
                resized.shape,
                {"class": classes},
                policy("none", resized.shape[1]),
                reading.workers,
            )
        images, labels = decode(resized, part, reading.workers)
    low, high = labels.min().item(), labels.max().item()
    if not 0 <= low <= high < classes:
        raise UserError(
            f"data.name: labels of {place[0]} ({split}) run from {low} to {high}, and its train"
            f" split has classes 0 to {classes - 1}"
        )
    if reading.binarise:
        images = _binarised(images, chosen, "test" if split == "test" else "train")
    return Arrays(images, labels, {"class": classes}, policy("none", images.shape[2]))


def _binarised(images: Tensor, chosen: Tensor, official: str) -> Tensor:
    """Images [n, C, H, W] with every value 0 or 255, drawn once with probability value / 255
    (static binarisation).

    The draw is a function of an image's place in the official split, so that train, val and
    trainval agree on it. It is not the file of Larochelle & Murray 2011, whose draws were others.
    """
    binary, block = torch.empty_like(images), 4096
    for number in range(int(chosen.max()) // block + 1):
        mine = (chosen // block == number).nonzero()[:, 0]
        uniform = KeyedRNG(0, number).uniform(f"binarise {official}", block, *images.shape[1:])[
            chosen[mine] % block
        ]
        binary[mine] = (uniform * 255 < images[mine]).to(images.dtype) * 255
    return binary


def _part(n: int, split: str, validation: int) -> Tensor:
    """Indices of a split: of the official test split all, of the official train split a part."""
    if split == "test":
        return torch.arange(n)
    if validation >= n:
        raise UserError(f"data.validation: {validation} images can not be held out of {n}")
    order = KeyedRNG(0, 0).permutation("validation split", n)
    train, val = order[validation:].sort().values, order[:validation].sort().values
    return {"train": train, "val": val, "trainval": torch.cat([train, val])}[split]


def _open(place: Place, split: str) -> Dataset[Any]:
    """The official train or test split, undecoded where it allows that."""
    name, root, download = place[0], Path(place[1]).expanduser(), place[2]
    try:
        with _one_at_a_time(root) if download else contextlib.nullcontext():
            if name == "stl10":
                return datasets.STL10(str(root), split=split, download=download)
            if name in TORCHVISION:
                kind = {
                    "mnist": datasets.MNIST,
                    "cifar10": datasets.CIFAR10,
                    "cifar100": datasets.CIFAR100,
                }[name]
                return kind(str(root), train=split == "train", download=download)
            dataset = (
                _open_folder(root, split)
                if name == "folder"
                else _open_timm(name, root, download, split)
            )
    except ImportError as error:
        raise UserError(
            f"data.name: '{name}' needs a package that is not installed ({error}); pip install it"
        ) from None
    except (RuntimeError, OSError, ValueError, AssertionError, EOFError) as error:
        if "Please install" in str(error):  # timm's way of saying the same
            raise UserError(
                f"data.name: '{name}' needs a package that is not installed; pip install"
                f" {PACKAGES[name.split('/')[0]]}"
            ) from None
        mend = "put the files there, name another data.root, or let them be fetched with data.download=true"
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"data.root: {name} ({split}) could not be read from {root.resolve()}; {mend}"
            f" ({reason})"
        ) from None
    if isinstance(dataset, ImageDataset):
        dataset.load_bytes = (
            True  # else timm puts the next image in the place of one that can not be decoded
        )
    return dataset


def _one_at_a_time(root: Path) -> contextlib.AbstractContextManager[Any]:
    """Of the processes that torchrun starts at once, the first fetches the files and the others
    then find them.
    """
    root.mkdir(parents=True, exist_ok=True)
    return (
        FileLock(root / ".download.lock") if os.access(root, os.W_OK) else contextlib.nullcontext()
    )


def _open_timm(name: str, root: Path, download: bool, split: str) -> Any:
    """A set under timm's own name. Its test split is called "test", or "validation" where there is
    no such split.
    """
    open_part = functools.partial(create_dataset, name, root=str(root), download=download)
    with contextlib.nullcontext() if download or not name.startswith("hfds/") else _offline():
        if split == "train" or name.startswith("torch/"):
            return open_part(split="train" if split == "train" else "validation")
        try:
            return open_part(split="test")
        except (RuntimeError, ValueError):
            return open_part(split="validation")


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Keep Hugging Face to what lies on the disk: its loader knows no `download=False`, only this
    switch.
    """
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = True
    try:
        import datasets as hugging_face

        hugging_face.config.HF_HUB_OFFLINE, kept = True, before
        try:
            yield
        finally:
            hugging_face.config.HF_HUB_OFFLINE = kept
    finally:
        hub.HF_HUB_OFFLINE = before


def _open_folder(root: Path, split: str) -> Any:
    """root/train and root/test (or root/val): one folder a class, numbered as in train."""
    names = ["train"] if split == "train" else ["test", "val", "validation"]
    place = next((root / name for name in names if (root / name).is_dir()), None)
    if place is None:
        raise UserError(
            f"data.root: {root.resolve()} holds no folder '{split}';"
            f" name=folder expects {root}/train/CLASS/*.jpg and {root}/test/CLASS/*.jpg"
        )
    open_part = functools.partial(create_dataset, "", root=str(place), search_split=False)
    dataset = open_part()
    if split == "train":
        return dataset
    known = _open_folder(root, "train").reader.class_to_idx
    strange = sorted(dataset.reader.class_to_idx.keys() - known.keys())
    if strange:
        raise UserError(
            f"data.root: {place} holds the class '{strange[0]}' and {root / 'train'} does not;"
            " classes are those of the train split"
        )
    return open_part(class_map=known)


def _classes(train: Any) -> int:
    """The number of classes of the train split, by name where it names them."""
    named = getattr(train, "classes", None) or getattr(
        getattr(train, "reader", None), "class_to_idx", None
    )
    return len(named) if named else max(int(train[i][1]) for i in range(len(train))) + 1
