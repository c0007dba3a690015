"""Stored images: held in memory as one uint8 tensor, or decoded by worker processes.

n = images in the split, B = images on this process.
"""

import copy
import hashlib
import itertools
import math
import os
import time
from abc import abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.batch import Batch
from core.data.identity import Identity, digest, digest_of_files, digest_of_sample
from core.data.notes import printable
from core.data.skipping import Split
from core.data.source import Sampler, Source, eval_sampler
from core.data.stored_captions import StoredCaptions, sentences_of
from core.data.views import Policy, augmented, policy
from core.data.workers import load
from core.errors import UserError
from core.randomness import KeyedRNG
from core.transfer import send, to_device

# Bytes in all files of a split. Up to this limit their contents are hashed, which takes seconds.
QUICKLY_READ = 2**32


@dataclass
class Facts:
    """What is known about a stored split besides its images. All sources of one split share one
    `Facts`. Only a source with captions from class names has a copy of its own.
    """

    name: str = "arrays"
    split: str = ""
    root: str = ""
    classes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)  # keys that change pixels or labels
    # the top folder; path and label (or a list of labels) of each file
    files: tuple[str | Path, list[tuple[str, Any]]] | None = None
    identity: Identity | None = None  # computed at first use


class Stored(Source):
    """Images that are stored, not rendered. A policy augments them."""

    policy: Policy
    facts: Facts
    told: StoredCaptions | None = None

    def with_captions(self, told: StoredCaptions) -> "Stored":
        """This source, whose batches have captions from now on."""
        self.told, self.captioned, self.captions_of_labels = told, True, told.of_labels
        self.facts.settings["captions"] = told.identity()
        return self

    def captions(self, most: int) -> Iterator[str]:
        return self.told.some(most) if self.told else iter(())

    def prompts(self) -> dict[str, list[list[str]]]:
        if len(self.factors) != 1 or not self.facts.classes:
            return {}
        return {next(iter(self.factors)): sentences_of(self.facts.classes)}

    def _told(self, batch: Batch, place: Tensor, label: Tensor) -> Batch:
        """The batch with captions, if there are any; `place` [B] in the split and `label` [B, F]
        are on the CPU, because a copy from the device makes the host wait.
        """
        if self.told is None:
            return batch
        return batch._replace(text=self.told.texts(place, label, batch.rng.on("cpu")))

    def viewed(self, augment: str, compile: bool = False) -> "Stored":
        """The same images under the policy of that name (`core.data.views`); "none" = plain."""
        source = copy.copy(self)
        source.policy = replace(policy(augment, self.shape[1]), compile=compile)
        source.shape = (self.shape[0], source.policy.size, source.policy.size)
        source.augmentation = augment
        return source

    def identify(self) -> Identity:
        """An identity from all pixels and labels, from the files, or from a sample."""
        facts = self.facts
        if facts.identity is None:
            shape, digests = self._content()
            facts.identity = Identity(
                name=facts.name,
                split=facts.split,
                root=facts.root,
                images=len(self),
                shape=shape,
                factors=dict(self.factors),
                classes=facts.classes,
                settings=facts.settings,
                digests=digests | _digest_of_files(facts),
            )
        return facts.identity

    @abstractmethod
    def _content(self) -> tuple[tuple[int, ...], dict[str, str]]:
        """The shape of the images before augmentation, and the digests of the split."""


class Arrays(Stored):
    """A split in memory: uint8 images [n, C, H, W]."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        factors: dict[str, int],
        policy: Policy | None = None,
        facts: Facts | None = None,
    ):
        """`labels`: int64 [n, F], one column per factor. Without a policy, views are plain."""
        self.images, self.labels, self.factors = images, labels, factors
        self.host_labels = labels.cpu()  # captions are made from them
        self.policy, self.facts = policy or Policy(images.shape[2]), facts or Facts()
        height, width = [self.policy.size] * 2 if self.policy.size else images.shape[2:]
        self.shape = (images.shape[1], height, width)

    def __len__(self) -> int:
        return len(self.images)

    def _content(self) -> tuple[tuple[int, ...], dict[str, str]]:
        digests = {"pixels": digest(self.images), "labels": digest(self.labels)}
        return tuple(self.images.shape[1:]), digests

    def batches(self, order: Sampler, views: int) -> Iterator[Batch]:
        for index, rng in order:
            # moved to the device once, then kept there
            self.images, self.labels = self.images.to(rng.device), self.labels.to(rng.device)
            here = to_device(index, rng.device)
            image, label = (x.index_select(0, here) for x in (self.images, self.labels))
            batch = make_batch(image, label, here, rng, self.policy, views)
            yield self._told(batch, index, self.host_labels[index])


class Stream(Stored):
    """A split that worker processes decode while it is read. Views are made on the device."""

    def __init__(
        self,
        images: Split,
        shape: tuple[int, int, int],
        factors: dict[str, int],
        policy: Policy,
        workers: int,
        facts: Facts | None = None,
        timeout: float = math.inf,
    ):
        self.images, self.factors, self.policy, self.workers = images, factors, policy, workers
        self.stored, self.shape = shape, (shape[0], policy.size, policy.size)
        self.facts, self.timeout = facts or Facts(), timeout

    def __len__(self) -> int:
        return len(self.images)

    def _content(self) -> tuple[tuple[int, ...], dict[str, str]]:
        return self.stored, digests_of(self.images)

    def batches(self, order: Sampler, views: int) -> Iterator[Batch]:
        ahead, order = itertools.tee(order)  # the workers run ahead of the batches
        wanted, pin = (index.tolist() for index, _ in ahead), torch.cuda.is_available()
        table = table_of(self.images)
        loaded = load(self.images, self.workers, self.timeout, batch_sampler=wanted, pin_memory=pin)
        timed = self._timed(loaded)
        for (image, label, read, notes), (index, rng) in zip(timed, order, strict=True):
            self.images.account(index, read, notes)
            label = label[:, None] if table is None else table[read]
            require_labels(label, self.factors, f"{self.facts.name} ({self.facts.split})")
            image = image.to(rng.device, non_blocking=True)
            here, index = send([label, index], rng.device)
            batch = make_batch(image, here, index, rng, self.policy, views)
            yield self._told(batch, read, label)
        if self.images.notes:
            self.images.notes.judge()

    def _timed(self, loaded: Iterator[Any]) -> Iterator[Any]:
        while True:
            began = time.monotonic()
            batch = next(loaded, None)
            self.waited += time.monotonic() - began
            if batch is None:
                return
            yield batch


def make_batch(
    image: Tensor, label: Tensor, index: Tensor, rng: KeyedRNG, policy: Policy, views: int
) -> Batch:
    """Augmented views of images [B, C, H, W]; each view has its own random numbers."""
    forks = [rng.fork(f"view{v}") for v in range(views)]
    return Batch(augmented(image, forks, policy), label, index, rng)


def require_labels(labels: Tensor, factors: dict[str, int], where: str) -> None:
    """`UserError` if a label [n] or [n, F] is outside of the train split's classes."""
    columns: Any = labels.view(len(labels), -1).T if labels.numel() else []
    for classes, column in zip(factors.values(), columns, strict=False):
        low, high = column.min().item(), column.max().item()
        if not 0 <= low <= high < classes:
            none = " (-1 usually means that an image has no label; leave such images out)"
            raise UserError(
                f"data.name: labels of {where} run from {low} to {high}, but its train split has"
                f" classes 0 to {classes - 1}{none if low == -1 else ''}"
            )


def table_of(images: Split) -> Tensor | None:
    """The labels of a split, int64 [n, F], if its data set has a table of them."""
    table = getattr(getattr(images.images, "dataset", None), "table", None)
    return None if table is None else table[images.chosen]


def digests_of(images: Split) -> dict[str, str]:
    """The digests of a split that streams, without those of its files.

    - "labels": if labels are known without decoding.
    - "content": for torchvision's stored arrays, and for sets to which Hugging Face gives a digest.
    - "sample", a digest of 64 decoded images: for Hugging Face's sets, and for other sets without
      files. Then also "sampled_labels", if labels are not known without decoding.
    """
    inner, chosen = images.images.dataset, images.chosen  # type: ignore[attr-defined]
    labels = labels_of(inner)
    found = {} if labels is None else {"labels": digest(labels[chosen])}
    data = getattr(inner, "data", None)
    if isinstance(data, np.ndarray | Tensor):
        return found | {"content": digest(torch.as_tensor(data)[chosen])}
    known = getattr(inner, "fingerprint", None)
    if getattr(inner, "samples", None) and known is None:
        return found
    reader = getattr(inner, "reader", None)
    known = known or getattr(getattr(reader, "dataset", None), "_fingerprint", None)
    places = torch.cat([index for index, _ in eval_sampler(len(images), most=64)])
    sample, some_labels, _, _ = zip(*(images[place] for place in places.tolist()), strict=True)
    found |= {"sample": digest_of_sample(torch.stack(sample))}
    found |= {} if known is None else {"content": digest(f"{known} {chosen.tolist()}".encode())}
    return found | (
        {} if "labels" in found else {"sampled_labels": digest(torch.tensor(some_labels))}
    )


def labels_of(dataset: Any) -> Tensor | None:
    """The labels of a data set, int64 [n] (or [n, F] from a table), if they are known without
    decoding its images.
    """
    if isinstance(table := getattr(dataset, "table", None), Tensor):
        return table
    samples = getattr(dataset, "samples", None)
    targets = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if samples:
        targets = [label for _, label in samples]
    found = torch.as_tensor(np.asarray([] if targets is None else targets))
    return found.long() if found.ndim == 1 and len(found) == len(dataset) else None


def _digest_of_files(facts: Facts) -> dict[str, str]:
    """{"contents": digest of path and content of each file}, for large sets {"files": digest of
    path, size and time of change}; {} for a set without files.
    """
    if facts.files is None:
        return {}
    top, files = facts.files
    known = list(_with_status(str(top), files))
    if sum(size for _, size, _, _ in known) > QUICKLY_READ:
        return {"files": digest_of_files(known)}
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        contents = pool.map(_digest_of_file, (path for path, _ in files))
        described = zip(known, contents, strict=True)
        return {
            "contents": digest_of_files(
                (path, code, label) for (path, *_, label), code in described
            )
        }


def _digest_of_file(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None


def _with_status(top: str, files: list[tuple[str, Any]]) -> Iterator[tuple[str, int, int, Any]]:
    for path, label in files:
        try:
            status = os.stat(path)
        except OSError as error:
            raise _unreadable(path, error) from None
        yield os.path.relpath(path, top), status.st_size, status.st_mtime_ns, label


def _unreadable(path: str, error: OSError) -> UserError:
    return UserError(f"data.root: {printable(path)} can not be read ({error.strerror})")
