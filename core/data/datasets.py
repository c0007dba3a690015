"""Data sets by name: the embedded sprites and linear-Gaussian images, torchvision's, folders, and
everything that timm opens.

The "val" split is held out of the official train split by a permutation of a fixed seed, so that a
probe finds the images that pretraining has not seen whatever the run's seed was. "trainval" is
train followed by val; "test" is read once. Classes are those of the train split.

A set that can only be read in sequence (wds/, tfds/) is read once, in its own order, and held:
batches are a function of (seed, step), which takes random access.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

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
    """Which images, and what a view of them is."""

    # sprites | linear_gaussian | mnist | fashion_mnist | cifar10 | cifar100 | stl10 | folder |
    # {hfds,wds,tfds,torch}/NAME | package.module.Class, a data set of one's own
    name: str = "sprites"
    root: str = "data"
    download: bool = False
    size: int = 0  # images are resized to this side; 0 = as they are stored
    grey: bool = False  # images are read with one channel, whatever the files hold
    # pixels are drawn as black or white once, with their grey value's probability, the same in
    # every run
    binarise: bool = False
    bits: int = 16  # of the values in files of 16 bits; 12 where a camera fills only those
    augment: str = "simclr"  # simclr | moco | crop | none
    probe_augment: str = ""  # what makes the two views of the information probe; empty = augment
    # share of a split that may be images that can not be decoded; another image of the split stands
    # in for each
    skip: float = 0.001
    validation: int = 2048  # images held out of the official train split
    workers: int = 2  # processes that decode
    timeout: float = 600.0  # seconds without an image after which these processes are called lost
    # make views through torch.compile: seconds at the start, then about 1.5 times as many images
    # per second
    compile: bool = False
    # GiB; a split up to this size is held as one uint8 tensor, decoded once a process; a larger one
    # streams
    memory: float = 2.0
    changed: str = "refuse"  # refuse | accept: what a resumed run does where its data have changed
    sprites: SpritesConfig = field(default_factory=SpritesConfig)
    linear_gaussian: LinearGaussianConfig = field(default_factory=LinearGaussianConfig)
    options: dict[str, Any] = field(default_factory=dict)  # keys of a data set of one's own
    # no key of a config: those keys whose values come from a file of unknown origin
    doubtful: Any = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (self.name in NAMES or self.name.startswith(PREFIXES) or is_own(self.name)):
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
        if not 0 <= self.skip < 1:
            raise ValueError(f"skip: must be a share in [0, 1), got {self.skip}")
        if not 0 <= self.memory < math.inf:
            raise ValueError(f"memory: must be 0 or more GiB, got {self.memory}")
        if not 8 <= self.bits <= 16:
            raise ValueError(f"bits: must be from 8 to 16, got {self.bits}")
        if not 0 < self.timeout <= 86400 * 365:
            raise ValueError(
                f"timeout: must be above 0 seconds and within a year, got {self.timeout}"
            )
        if self.changed not in CHANGED:
            raise ValueError(f"changed: '{self.changed}' is none of {', '.join(CHANGED)}")
        takes_options = is_own(self.name) or self.name in EMBEDDED and not hasattr(self, self.name)
        if self.options and not takes_options:
            raise ValueError(f"options: {self.name} has none; they are for sets of one's own")
        if self.name in EMBEDDED:
            EMBEDDED[self.name].check(self)

    @property
    def views_differ(self) -> bool:
        """Whether two views of an image are two pictures; embedded data are made afresh whatever
        `augment` says.
        """
        return self.augment != "none" or self.made is not None and self.made.rendered

    @property
    def made(self) -> type[Source] | None:
        """The class of a set that is embedded or the user's own; None for one that is read."""
        return locate_source(self.name) if self.name in EMBEDDED or is_own(self.name) else None


def open_source(config: DataConfig, split: str, seed: int, augmented: bool = True) -> Source:
    """One split as a source. `augmented=False` gives the plain image as every view (a fresh
    rendering, for embedded data).

    `seed` matters to embedded data alone. Raises `UserError` where files are missing or damaged,
    naming the path and the mend.
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
    """A split of an embedded set or of the user's own, from its section of the config."""
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
    return source


Origin = tuple[str, str, bool]  # name, root, download


class Reading(NamedTuple):
    """What of a `DataConfig` decides which images a split holds, and how they are held."""

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
        """What of it changes pixels or labels; `skip` only decides whether a split is refused."""
        keys = ("size", "grey", "binarise", "bits", "validation")
        return {key: getattr(self, key) for key in keys}


@functools.lru_cache(maxsize=2)  # a run opens train and val twice, with and without augmentation
def _plain(origin: Origin, split: str, reading: Reading) -> Arrays | Stream:
    """One split, its images unaltered."""
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
            f"data.binarise: pixels are fixed where a split is held in memory, and {where} takes"
            f" more than the {reading.memory:g} GiB of data.memory; allow more, or set"
            " data.binarise=false"
        )


def _check_labels(labels: Tensor, classes: int, facts: Facts) -> None:
    """Refuse labels that the train split does not have, and say where it has no images to train
    on.
    """
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


def _count(train: Any) -> int:
    """The number of classes of the train split, by name where it names them."""
    named = len(class_names(train))
    if named:
        return named
    labels = labels_of(train)
    if labels is not None:
        return int(labels.max()) + 1
    return max(int(train[i][1]) for i in range(len(train))) + 1
