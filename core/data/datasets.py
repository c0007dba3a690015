"""Data sets by name: embedded sets, torchvision's, folders, and all sets that timm opens.

If the data have no "val" split, or if data.validation is a number, "val" is held out of train by a
permutation with a fixed seed, whatever the run's seed is. "trainval" is train followed by val.
Classes are those of the train split. A set without random access is read once and held in memory,
because a batch may need any images. These are tfds/... and, without data.captions, wds/... .
"""

import copy
import functools
import math
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from core.checks import at_least, one_of, timeout
from core.data import held_out, own
from core.data.captioned_sprites import CaptionedSpritesConfig
from core.data.doubtful import refuse_doubtful
from core.data.images import Arrays, Facts, Stored, Stream, labels_of, require_labels
from core.data.joined import Joined, joined
from core.data.linear_gaussian import LinearGaussianConfig
from core.data.loading import Resized, decode, read_through
from core.data.notes import Notes, printable, say_once
from core.data.pictures import Pictures
from core.data.pixels import binarised
from core.data.readers import PAIRS, PREFIXES, TORCHVISION, class_names, local_folder, open_official
from core.data.registry import EMBEDDED, from_options, is_own, locate_source
from core.data.scenes import ScenesConfig
from core.data.skipping import Split
from core.data.source import Source
from core.data.sprites import SpritesConfig
from core.data.stored_captions import FROM_CLASSES, FromClasses, Told
from core.data.views import policy
from core.errors import UserError, nearest
from core.randomness import KeyedRNG

SPLITS = ("train", "val", "trainval", "test")
NAMES = (*EMBEDDED, *TORCHVISION, "folder")
CHANGED = ("refuse", "accept")


@dataclass
class DataConfig:
    """Which images a run reads, and how its views are made."""

    # sprites | captioned_sprites | scenes | linear_gaussian | mnist | fashion_mnist | cifar10 |
    # cifar100 | stl10 | folder | {hfds,wds,tfds,torch}/NAME | package.module.Class (your own)
    name: str = "sprites"
    root: str = "data"  # the folder of the data
    # for name=folder, a list of pictures below root: a text file of paths, or CSV, TSV or JSONL
    list: str = ""
    # what the labels are: auto | folders (their names) | none | names of columns of data.list,
    # separated by commas
    labels: str = "auto"
    # where captions come from; empty = no captions. List or hfds/ set: the name of a column. wds/:
    # the ending of a member of each sample (such as txt), or a key of the sample's .json member.
    # from_classes = captions are made from the names of classes
    captions: str = ""
    download: bool = False  # fetch missing files, for the sets that can be fetched
    size: int = 0  # images are resized to this side; 0 = no resizing
    grey: bool = False  # images are read with one channel
    # each pixel is drawn once: white with probability value / 255, else black
    binarise: bool = False
    bits: int = 16  # bits that values in 16-bit files use; 12 for many cameras
    augment: str = "simclr"  # how views are made: simclr | moco | crop | none
    probe_augment: str = ""  # how the views of the information probe are made; empty = augment
    # largest share of images that may fail to decode; readable images replace them
    skip: float = 0.001
    # images held out of the train split: a number, a share such as 0.1, or auto. auto = the
    # validation split that a folder, a list or a set with captions has; without one, a tenth of
    # train, at most 2,048 images
    validation: int | float | str = "auto"
    # processes that decode images; -1 = one per processor, at most 8; 0 = the main process
    workers: int = -1
    timeout: float = 600.0  # seconds without a batch after which new workers replace the old ones
    # compile the operations on views: a slower start, then about 1.5 times as many views per second
    compile: bool = False
    memory: float = 2.0  # GiB; a split up to this size is held in memory, a larger one streams
    changed: str = "refuse"  # refuse | accept: how a resumed run treats changed data
    sprites: SpritesConfig = field(default_factory=SpritesConfig)
    captioned_sprites: CaptionedSpritesConfig = field(default_factory=CaptionedSpritesConfig)
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
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
        at_least(self, size=0, workers=-1)
        held_out.check("validation", self.validation)
        if self.name != "folder" and (self.list or self.labels != "auto"):
            key = "list" if self.list else "labels"
            raise ValueError(f"{key}: only data.name=folder reads it, not {self.name}")
        if self.captions:
            self._check_captions()
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

    def _check_captions(self) -> None:
        made = self.name in EMBEDDED or is_own(self.name)
        if made:
            raise ValueError(
                f"captions: {self.name} has captions of its own or none; leave this key out"
            )
        if self.captions == FROM_CLASSES or self.list or self.name.startswith(PAIRS):
            return
        if self.name != "folder":
            raise ValueError(
                f"captions: {self.name} has no column '{self.captions}'; set"
                f" data.captions={FROM_CLASSES}"
            )
        raise ValueError(
            f"captions: '{self.captions}' names a column of data.list, but data.list is empty; set"
            f" data.list=FILE or data.captions={FROM_CLASSES}"
        )

    @property
    def views_differ(self) -> bool:
        """Whether two views of an image differ. Views of rendered data always differ."""
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
        column = config.captions if config.captions != FROM_CLASSES else ""
        place = (config.name, config.root, config.download)
        origin = (*place, config.list, config.labels, column)
        reading = Reading(*(getattr(config, key) for key in Reading._fields))
        source = _plain(origin, split, reading)
    return _viewed(source, config, augmented)


def _viewed(source: Source, config: DataConfig, augmented: bool) -> Source:
    """The source under the policy of the config, if its images are stored."""
    if isinstance(source, Joined):
        source.view(lambda part: _viewed(part, config, augmented))
    if not isinstance(source, Stored):
        return source
    if config.captions == FROM_CLASSES:
        source = _told_classes(source, config)
    return source.viewed(config.augment if augmented else "none", config.compile)


def _make(kind: type[Source], config: DataConfig, split: str, seed: int) -> Source:
    """A split of an embedded set or of a user's own set, with its section of the config."""
    section = getattr(config, config.name, None) if config.name in EMBEDDED else None
    if section is None:
        section = from_options(kind, config.options)
        try:
            kind.check(config)
        except ValueError as error:
            raise UserError(f"data.{error}") from None
    mine = is_own(config.name)
    source: Source
    if mine and split == "trainval":
        source = joined(*(_make(kind, config, part, seed) for part in ("train", "val")))
    else:
        with own.said(config.name, split, kind) if mine else nullcontext():
            source = kind(section, split, seed)  # type: ignore[call-arg]
    source.name, source.split, source.config, source.seed = config.name, split, section, seed
    if isinstance(source, Stored) and source.facts.name == Facts.name:
        source.facts = Facts(config.name, split, settings=dict(config.options))
    if mine and not isinstance(source, (Stored, Joined)):
        own.guard(source)
        own.check(source)
    return source


def _told_classes(source: Stored, config: DataConfig) -> Stored:
    """A copy of the source with captions that are made from the names of its classes."""
    if len(source.factors) != 1 or not source.facts.classes:
        raise UserError(f"data.captions: {config.name} has no class names to make captions from")
    source = copy.copy(source)
    source.facts = replace(source.facts, settings=dict(source.facts.settings), identity=None)
    return source.with_captions(FromClasses(source.facts.classes))


# name, root, download, list, labels, captions
Origin = tuple[str, str, bool, str, str, str]


class Reading(NamedTuple):
    """The fields of `DataConfig` that decide which images a split holds, and how it holds them."""

    size: int
    grey: bool
    binarise: bool
    bits: int
    skip: float
    validation: int | float | str
    workers: int
    timeout: float
    memory: float

    @property
    def room(self) -> float:
        """The largest size, in bytes, of a split that is held in memory."""
        return self.memory * 2**30

    @property
    def settings(self) -> dict[str, Any]:
        """The fields that change pixels or labels."""
        keys = ("size", "grey", "binarise", "bits")
        return {key: getattr(self, key) for key in keys}


@functools.lru_cache(maxsize=2)  # a run opens train and val twice: with and without augmentation
def _plain(origin: Origin, split: str, reading: Reading) -> Arrays | Stream:
    """One split with plain images."""
    name, root, download, *listed = origin
    place = str(local_folder(root))
    official = "test" if split == "test" else "train"
    dataset: Any = open_official(name, root, download, official, *listed)
    train: Any = dataset
    if official == "test" and not isinstance(dataset, Pictures):
        train = open_official(name, root, download, "train", *listed)
    facts, part = Facts(name, split, place, class_names(train), reading.settings), None
    if isinstance(dataset, IterableDataset):
        images, labels, chosen, factors = _in_sequence(dataset, train, facts, reading)
    else:
        facts.settings["validation"] = _held_out(dataset, train, split, reading)
        factors = dataset.factors if isinstance(dataset, Pictures) else {"class": _count(train)}
        resized = Resized(dataset, reading.size, reading.grey, reading.skip, reading.bits)
        chosen = _chosen(dataset, len(resized), split, reading.validation)
        notes = Notes(_seen(facts), reading.bits)
        part = Split(resized, chosen, reading.skip, notes)
        facts.files = _files(dataset, chosen)
        if math.prod(resized.shape) * len(part) > reading.room:
            _refuse_binarised(reading, f"{name} ({split})")
            known = labels_of(dataset)
            if known is not None:
                _check_labels(known[chosen], factors, facts)
            plain = policy("none", resized.shape[1])
            workers, timeout = reading.workers, reading.timeout
            stream = Stream(part, resized.shape, factors, plain, workers, facts, timeout)
            return _with_texts(stream, dataset, chosen)
        images, labels = decode(resized, part, reading.workers, reading.timeout)
        notes.judge()
    _check_labels(labels, factors, facts)
    if reading.binarise:
        images = binarised(images, chosen, official)
    held = Arrays(images, labels, factors, policy("none", images.shape[2]), facts)
    return _with_texts(held, dataset, chosen[part.read] if part else chosen)


def _with_texts(source: Arrays | Stream, dataset: Any, place: Tensor) -> Arrays | Stream:
    """The source with the captions of a list, if there are any. `place` [n]: the images' places in
    the data set.
    """
    if captions := getattr(dataset, "captions", None):
        source.with_captions(Told([captions[i] for i in place.tolist()]))
    return source


def _in_sequence(
    dataset: Any, train: Any, facts: Facts, reading: Reading
) -> tuple[Tensor, Tensor, Tensor, dict[str, int]]:
    """Images, labels, places and factors of a split of a set without random access."""
    room, size, grey, bits = reading.room, reading.size, reading.grey, reading.bits
    images, labels = read_through(dataset, size, room, grey, bits, _seen(facts))
    of_train = labels
    if train is not dataset:
        of_train = read_through(train, size, room, grey, bits, f"{facts.name} (train)")[1]
    facts.settings["validation"] = held_out.held_out(reading.validation, len(of_train))
    chosen = _part(len(images), facts.split, reading.validation)
    classes = len(facts.classes) or int(of_train.max()) + 1
    return images[chosen], labels[chosen], chosen, {"class": classes}


def _seen(facts: Facts) -> str:
    return f"{facts.name} in {printable(facts.root)} ({facts.split})"


def _held_out(dataset: Any, train: Any, split: str, reading: Reading) -> int:
    """The number of images held out of train. If the config names a number, it is returned."""
    if isinstance(dataset, Pictures):
        return len(dataset.part("val", reading.validation))
    if split == "test" and float(reading.validation if reading.validation != "auto" else 0) >= 1:
        return int(reading.validation)
    return held_out.held_out(reading.validation, len(train))


def _files(dataset: Any, chosen: Tensor) -> tuple[str | Path, list[tuple[str, Any]]] | None:
    """The top folder of a set of files, with path and label(s) of each chosen file."""
    if isinstance(dataset, Pictures):
        return dataset.files(chosen)
    samples = getattr(dataset, "samples", None)
    if not samples:
        return None
    top = getattr(dataset, "root", "")
    return top, [(str(samples[i][0]), int(samples[i][1])) for i in chosen]


def _refuse_binarised(reading: Reading, where: str) -> None:
    if reading.binarise:
        raise UserError(
            f"data.binarise: it needs the whole split in memory, but {where} takes more than the"
            f" {reading.memory:g} GiB of data.memory; allow more, or set data.binarise=false"
        )


def _check_labels(labels: Tensor, factors: dict[str, int], facts: Facts) -> None:
    """Refuse labels that train does not have. Warn about classes without training images."""
    require_labels(labels, factors, f"{facts.name} ({facts.split})")
    if facts.split != "train":
        return
    first = 0
    for (factor, classes), column in zip(
        factors.items(), labels.view(len(labels), -1).T, strict=True
    ):
        absent = (torch.bincount(column, minlength=classes) == 0).nonzero()[:, 0].tolist()
        if absent:
            names = facts.classes or tuple(map(str, range(classes)))
            what = "classes" if len(factors) == 1 else f"values of {factor}"
            say_once(
                f"data.validation: {len(absent)} of {classes} {what} of {printable(facts.root)}"
                f" have no image left to train on, such as '{printable(names[first + absent[0]])}';"
                " hold out fewer, or add images"
            )
        first += classes


def _chosen(dataset: Any, n: int, split: str, validation: int | float | str) -> Tensor:
    """The places of a split in its data set."""
    if isinstance(dataset, Pictures):
        return dataset.part(split, validation)
    return _part(n, split, validation)


def _part(n: int, split: str, validation: int | float | str) -> Tensor:
    """Indices of a split: the whole official test split, or a part of the official train split."""
    if split == "test":
        return torch.arange(n)
    count = held_out.held_out(validation, n)
    order = KeyedRNG(0, 0).permutation("validation split", n)
    train, val = order[count:].sort().values, order[:count].sort().values
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
