"""Data sets by name: embedded sets, torchvision's, folders, and all sets that timm opens.

The "val" split is held out of the official train split by a permutation with a fixed seed, so it
does not depend on the run's seed. "trainval" is train followed by val. Classes are those of the
train split. A set without random access (wds/, tfds/) is read once and held in memory, because a
batch is a function of (seed, step).
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from core.checks import at_least, one_of, timeout
from core.data import own
from core.data.doubtful import refuse_doubtful
from core.data.images import Arrays, Facts, Stored, Stream, labels_of, require_labels
from core.data.linear_gaussian import LinearGaussianConfig
from core.data.loading import Resized, decode, read_through
from core.data.notes import Notes, printable, say_once
from core.data.readers import PREFIXES, TORCHVISION, class_names, local_folder, open_official
from core.data.registry import EMBEDDED, from_options, is_own, locate_source
from core.data.skipping import Split
from core.data.source import Source
from core.data.sprites import SpritesConfig
from core.data.views import policy
from core.errors import UserError, nearest
from core.randomness import KeyedRNG

SPLITS = ("train", "val", "trainval", "test")
NAMES = (*EMBEDDED, *TORCHVISION, "folder")
CHANGED = ("refuse", "accept")


@dataclass
class DataConfig:
    """Which images a run reads, and how its views are made."""

    # sprites | linear_gaussian | mnist | fashion_mnist | cifar10 | cifar100 | stl10 | folder |
    # {hfds,wds,tfds,torch}/NAME | package.module.Class, a data set of your own
    name: str = "sprites"
    root: str = "data"
    download: bool = False
    size: int = 0  # images are resized to this side; 0 = no resizing
    grey: bool = False  # images are read with one channel
    binarise: bool = False  # each pixel is drawn once: white with probability value / 255
    bits: int = 16  # bits that values in 16-bit files use; 12 for many cameras
    augment: str = "simclr"  # simclr | moco | crop | none
    probe_augment: str = ""  # the policy for the views of the information probe; empty = augment
    skip: float = 0.001  # allowed share of images that can not be decoded; others replace them
    validation: int = 2048  # images held out of the official train split
    workers: int = -1  # processes that decode; -1 = one a processor, up to 8; 0 = this one
    timeout: float = 600.0  # seconds without an image after which the workers count as lost
    compile: bool = False  # compile the views: slow start, then about 1.5 times as fast
    memory: float = 2.0  # GiB; a split up to this size is held in memory, a larger one streams
    changed: str = "refuse"  # refuse | accept: how a resumed run treats changed data
    sprites: SpritesConfig = field(default_factory=SpritesConfig)
    linear_gaussian: LinearGaussianConfig = field(default_factory=LinearGaussianConfig)
    options: dict[str, Any] = field(default_factory=dict)  # the keys of a data set of your own
    # not a key of a config: the keys whose values come from a file of unknown origin
    doubtful: Any = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (self.name in NAMES or self.name.startswith(PREFIXES) or is_own(self.name)):
            raise ValueError(
                f"name: there is no '{self.name}'{nearest(self.name, [*NAMES, *PREFIXES])};"
                " a set of your own is package.module.Class"
            )
        for key in ("augment", "probe_augment"):
            try:
                policy(getattr(self, key) or self.augment, 32)
            except UserError as error:
                raise ValueError(str(error).replace("data.augment", key)) from None
        at_least(self, size=0, validation=1, workers=-1)
        timeout(self.timeout)
        one_of(self, changed=CHANGED)
        if not 0 <= self.skip < 1:
            raise ValueError(f"skip: must be a share in [0, 1), got {self.skip}")
        if not 0 <= self.memory < math.inf:
            raise ValueError(f"memory: must be 0 or more GiB, got {self.memory}")
        if not 8 <= self.bits <= 16:
            raise ValueError(f"bits: must be from 8 to 16, got {self.bits}")
        takes_options = is_own(self.name) or self.name in EMBEDDED and not hasattr(self, self.name)
        if self.options and not takes_options:
            raise ValueError(f"options: {self.name} has none; only sets of your own have options")
        if self.name in EMBEDDED:
            EMBEDDED[self.name].check(self)

    @property
    def views_differ(self) -> bool:
        """Whether two views of an image differ. Rendered data differ for every `augment`."""
        return self.augment != "none" or self.made is not None and self.made.rendered

    @property
    def made(self) -> type[Source] | None:
        """The class of an embedded set or of a user's own; None for a set that is read."""
        return locate_source(self.name) if self.name in EMBEDDED or is_own(self.name) else None


def open_source(config: DataConfig, split: str, seed: int, augmented: bool = True) -> Source:
    """One split as a source. With `augmented=False` every view is the plain image (rendered data
    are still rendered afresh).

    `seed` matters only for rendered data. Raises `UserError` if files are missing or damaged.
    """
    if split not in SPLITS:
        raise UserError(f"split: there is no '{split}'{nearest(split, SPLITS)}")
    refuse_doubtful(config, config.made is not None)
    source: Source
    if config.made is not None:
        source = _make(config.made, config, split, seed)
    else:
        origin = (config.name, config.root, config.download)
        reading = Reading(*(getattr(config, key) for key in Reading._fields))
        source = _plain(origin, split, reading)
    if isinstance(source, Stored):
        return source.viewed(config.augment if augmented else "none", config.compile)
    return source


def _make(kind: type[Source], config: DataConfig, split: str, seed: int) -> Source:
    """A split of an embedded set or of a user's own set, with its section of the config."""
    section = getattr(config, config.name, None) if config.name in EMBEDDED else None
    if section is None:
        section = from_options(kind, config.options)
        try:
            kind.check(config)
        except ValueError as error:
            raise UserError(f"data.{error}") from None
    source = kind(section, split, seed)  # type: ignore[call-arg]
    source.name, source.split, source.config, source.seed = config.name, split, section, seed
    if isinstance(source, Stored) and source.facts.name == Facts.name:
        source.facts = Facts(config.name, split, settings=dict(config.options))
    if is_own(config.name) and not isinstance(source, Stored):
        own.check(source)
    return source


Origin = tuple[str, str, bool]  # name, root, download


class Reading(NamedTuple):
    """The fields of `DataConfig` that decide which images a split holds, and how it holds them."""

    size: int
    grey: bool
    binarise: bool
    bits: int
    skip: float
    validation: int
    workers: int
    timeout: float
    memory: float

    @property
    def settings(self) -> dict[str, Any]:
        """The fields that change pixels or labels."""
        keys = ("size", "grey", "binarise", "bits", "validation")
        return {key: getattr(self, key) for key in keys}


@functools.lru_cache(maxsize=2)  # a run opens train and val twice: with and without augmentation
def _plain(origin: Origin, split: str, reading: Reading) -> Arrays | Stream:
    """One split with plain images."""
    name, root, download = origin
    where, place = f"{name} ({split})", str(local_folder(root))
    seen = f"{name} in {printable(place)} ({split})"
    official = "test" if split == "test" else "train"
    dataset: Any = open_official(name, root, download, official)
    train = dataset if official == "train" else open_official(name, root, download, "train")
    room, size, grey = reading.memory * 2**30, reading.size, reading.grey
    facts = Facts(name, split, place, class_names(train), reading.settings)
    if isinstance(dataset, IterableDataset):
        images, labels = read_through(dataset, size, room, grey, reading.bits, seen)
        of_train = labels
        if train is not dataset:
            of_train = read_through(train, size, room, grey, reading.bits, f"{name} (train)")[1]
        classes = len(facts.classes) or int(of_train.max()) + 1
        chosen = _part(len(images), split, reading.validation)
        images, labels = images[chosen], labels[chosen]
    else:
        resized, classes = Resized(dataset, size, grey, reading.skip, reading.bits), _count(train)
        chosen = _part(len(resized), split, reading.validation)
        notes = Notes(seen, reading.bits)
        part = Split(resized, chosen, reading.skip, notes)
        samples = getattr(dataset, "samples", None)
        if samples:
            top = getattr(dataset, "root", root)
            facts.files = top, [(str(samples[i][0]), int(samples[i][1])) for i in chosen]
        if math.prod(resized.shape) * len(part) > room:
            _refuse_binarised(reading, where)
            known = labels_of(dataset)
            if known is not None:
                _check_labels(known[chosen], classes, facts)
            plain, factors = policy("none", resized.shape[1]), {"class": classes}
            workers, timeout = reading.workers, reading.timeout
            return Stream(part, resized.shape, factors, plain, workers, facts, timeout)
        images, labels = decode(resized, part, reading.workers, reading.timeout)
        notes.judge()
    _check_labels(labels, classes, facts)
    if reading.binarise:
        images = _binarised(images, chosen, official)
    return Arrays(images, labels, {"class": classes}, policy("none", images.shape[2]), facts)


def _refuse_binarised(reading: Reading, where: str) -> None:
    if reading.binarise:
        raise UserError(
            f"data.binarise: it needs the whole split in memory, but {where} takes more than the"
            f" {reading.memory:g} GiB of data.memory; allow more, or set data.binarise=false"
        )


def _check_labels(labels: Tensor, classes: int, facts: Facts) -> None:
    """Refuse labels that train does not have. Warn about classes without training images."""
    require_labels(labels, classes, f"{facts.name} ({facts.split})")
    absent = (torch.bincount(labels.flatten(), minlength=classes) == 0).nonzero()[:, 0].tolist()
    if absent and facts.split == "train":
        names = facts.classes or tuple(map(str, range(classes)))
        say_once(
            f"data.validation: {len(absent)} of {classes} classes of {printable(facts.root)} have"
            f" no image left to train on, such as '{printable(names[absent[0]])}'; hold out fewer,"
            " or add images"
        )


def _binarised(images: Tensor, chosen: Tensor, official: str) -> Tensor:
    """Images [n, C, H, W] with values 0 or 255: 255 with probability value / 255, drawn once.

    The draw depends only on an image's place in the official split, so train, val and trainval
    agree. These are not the draws in the file of Larochelle & Murray 2011.
    """
    binary, block = torch.empty_like(images), 4096
    for number in range(int(chosen.max()) // block + 1):
        mine = (chosen // block == number).nonzero()[:, 0]
        rng = KeyedRNG(0, number)
        uniform = rng.uniform(f"binarise {official}", block, *images.shape[1:])
        uniform = uniform[chosen[mine] % block]
        binary[mine] = (uniform * 255 < images[mine]).to(images.dtype) * 255
    return binary


def _part(n: int, split: str, validation: int) -> Tensor:
    """Indices of a split: the whole official test split, or a part of the official train split."""
    if split == "test":
        return torch.arange(n)
    if validation >= n:
        raise UserError(f"data.validation: {validation} images can not be held out of {n}")
    order = KeyedRNG(0, 0).permutation("validation split", n)
    train, val = order[validation:].sort().values, order[:validation].sort().values
    return {"train": train, "val": val, "trainval": torch.cat([train, val])}[split]


def _count(train: Any) -> int:
    """The number of classes of the train split."""
    named = len(class_names(train))
    if named:
        return named
    labels = labels_of(train)
    if labels is not None:
        return int(labels.max()) + 1
    return max(int(train[i][1]) for i in range(len(train))) + 1
