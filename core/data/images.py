"""Images that are stored: held as one uint8 tensor where they fit, decoded by worker processes
where they do not.

n = images in the split, B = images on this process.
"""

from core.batch import Batch
from core.data.identity import Identity, digest, digest_of_files, digest_of_sample
from core.data.skipping import Split, Undecodable, first_decodable
from core.data.source import Sampler, Source, eval_sampler
from core.data.views import Policy, augment
from core.errors import UserError
from core.randomness import KeyedRNG

import io
import itertools
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from timm.data import ImageDataset
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class Resized(Dataset[tuple[Tensor, int]]):
    """A data set of (picture, label) as (uint8 [C, H, W], label), every image of one shape.

    With `size` the shorter side is resized to it and the centre is cut out; without, images have to
    be of one shape already. With `grey` they have one channel; without, as many as the first image.
    """

    def __init__(self, dataset: Any, size: int, grey: bool = False, skip: float = 0.0):
        self.dataset, self.size = dataset, size
        self.as_stored = not (size or grey)
        first = first_decodable(self._open, len(dataset), skip)
        self.grey = grey or np.asarray(self._open(first)[0]).ndim == 2
        self.shape: tuple[int, int, int] = tuple(self._read(first)[0].shape)  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self._read(index)
        require_shape(image, self.shape, index)
        return image, label

    def _read(self, index: int) -> tuple[Tensor, int]:
        picture, label = self._open(index)
        return to_tensor(picture, self.size, self.grey), label

    def _open(self, index: int) -> tuple[Image.Image, int]:
        try:
            item, label = self._item(index)
        except OSError as error:
            if error.errno is None:
                raise
            raise UserError(
                f"data.root: image {index}: {error.filename or ''} can not be read"
                f" ({error.strerror})"
            ) from None
        if isinstance(item, Image.Image):
            return item, int(label)
        if not isinstance(item, bytes):
            return Image.fromarray(np.asarray(item)), int(label)
        try:
            return eight_bits(Image.open(io.BytesIO(item))).convert("RGB"), int(label)
        except MemoryError:
            raise
        # whatever the bytes lead one of Pillow's readers to, such as its DecompressionBombError
        except Exception as error:
            name = self.dataset.filename(index, absolute=True)
            reason = (
                "no image that Pillow knows"
                if isinstance(error, UnidentifiedImageError)
                else str(error)
            )
            raise Undecodable(
                f"data.root: {name} can not be decoded ({reason}); mend or remove it"
            ) from None

    def _item(self, index: int) -> tuple[Any, int]:
        """What is stored. timm itself would silently put the next image of any split in the place
        of one that fails.
        """
        if not isinstance(self.dataset, ImageDataset):
            return self.dataset[index]
        file, label = self.dataset.reader[index][:2]
        with file:
            return file.read(), -1 if label is None else label


def to_tensor(picture: Image.Image, size: int, grey: bool) -> Tensor:
    """A picture as uint8 [C, H, W]; with `size`, its shorter side is resized to that and its centre
    cut out.
    """
    picture = eight_bits(picture).convert("L" if grey else "RGB")
    if size and picture.size != (size, size):
        scale = size / min(picture.size)
        width, height = (max(size, round(side * scale)) for side in picture.size)
        left, top = (width - size) // 2, (height - size) // 2
        picture = picture.resize((width, height), Image.Resampling.BICUBIC).crop(
            (left, top, left + size, top + size)
        )
    pixels = torch.from_numpy(np.array(picture))
    return (pixels[None] if grey else pixels.permute(2, 0, 1)).contiguous()


def eight_bits(picture: Image.Image) -> Image.Image:
    """A picture whose values Pillow can convert: of 16 bits the upper 8, where Pillow would call
    all above 255 white.
    """
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise Undecodable(
            f"pixels of Pillow's mode {picture.mode} have no known range: store 8 or 16 bits"
        )
    return picture


def require_shape(image: Tensor, shape: tuple[int, ...], index: int) -> None:
    if tuple(image.shape) != shape:
        raise UserError(
            f"data.size: image {index} is {list(image.shape)} and image 0 is {list(shape)}; set"
            " data.size so that they become one shape"
        )


@dataclass
class Facts:
    """What is known of a stored split besides its images; shared by all sources that show it."""

    name: str = "arrays"
    split: str = ""
    root: str = ""
    classes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)  # that change pixels or labels
    identity: Identity | None = None  # once it has been asked for

    def identified(
        self, images: int, shape: tuple[int, ...], factors: dict[str, int], digests: dict[str, str]
    ) -> Identity:
        self.identity = Identity(
            name=self.name,
            split=self.split,
            root=self.root,
            images=images,
            shape=shape,
            factors=dict(factors),
            classes=self.classes,
            settings=self.settings,
            digests=digests,
        )
        return self.identity


class Arrays(Source):
    """A split in memory: uint8 images [n, C, H, W], batched by index."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        factors: dict[str, int],
        policy: Policy,
        facts: Facts | None = None,
    ):
        self.images, self.labels, self.factors, self.policy = images, labels, factors, policy
        self.facts = facts or Facts()
        height, width = (policy.size, policy.size) if policy.size else images.shape[2:]
        self.shape = (images.shape[1], height, width)

    def __len__(self) -> int:
        return len(self.images)

    def identify(self) -> Identity:
        """An identity from the pixels and labels of all images."""
        return self.facts.identity or self.facts.identified(
            len(self.images),
            tuple(self.images.shape[1:]),
            self.factors,
            {"pixels": digest(self.images), "labels": digest(self.labels)},
        )

    def batches(self, order: Sampler, views: int) -> Iterator[Batch]:
        for index, rng in order:
            self.images, self.labels = (
                self.images.to(rng.device),
                self.labels.to(rng.device),
            )  # moved once, then held there
            here = index.to(rng.device)
            yield make_batch(
                self.images.index_select(0, here),
                self.labels.index_select(0, here),
                here,
                rng,
                self.policy,
                views,
            )


class Stream(Source):
    """A split that is decoded as it is read. Workers only decode and resize; views are made by the
    batch, on the device.
    """

    def __init__(
        self,
        split: Split,
        shape: tuple[int, int, int],
        factors: dict[str, int],
        policy: Policy,
        workers: int,
        facts: Facts | None = None,
    ):
        self.chosen, self.factors, self.policy, self.workers = split, factors, policy, workers
        self.stored, self.shape = shape, (shape[0], policy.size, policy.size)
        self.facts = facts or Facts()

    def __len__(self) -> int:
        return len(self.chosen)

    def identify(self) -> Identity:
        """An identity from the files, or from what else the set is known by."""
        return self.facts.identity or self.facts.identified(
            len(self.chosen), self.stored, self.factors, digests_of(self.chosen)
        )

    def batches(self, order: Sampler, views: int) -> Iterator[Batch]:
        ahead, order = itertools.tee(order)  # workers run ahead of the batches
        wanted = (index.tolist() for index, _ in ahead)
        loaded = load(
            self.chosen, self.workers, batch_sampler=wanted, pin_memory=torch.cuda.is_available()
        )
        for (image, label, read), (index, rng) in zip(loaded, order, strict=True):
            self.chosen.account(index, read)
            image = image.to(rng.device, non_blocking=True)
            yield make_batch(
                image,
                label[:, None].to(rng.device),
                index.to(rng.device),
                rng,
                self.policy,
                views,
            )


def make_batch(
    image: Tensor, label: Tensor, index: Tensor, rng: KeyedRNG, policy: Policy, views: int
) -> Batch:
    """Views of images that are on the device, each with draws of its own."""
    return Batch(
        tuple(augment(image, rng.fork(f"view{v}"), policy) for v in range(views)),
        label,
        index,
        rng,
    )


def decode(dataset: Resized, split: Split, workers: int) -> tuple[Tensor, Tensor]:
    """The images of a split of the data set as uint8 [n, C, H, W] and their labels as int64 [n,
    1].
    """
    inner, chosen = dataset.dataset, split.chosen
    targets = torch.as_tensor(np.asarray(getattr(inner, "targets", getattr(inner, "labels", []))))
    if (
        dataset.as_stored
        and targets.ndim == 1
        and isinstance(getattr(inner, "data", None), np.ndarray | Tensor)
    ):
        raw = torch.as_tensor(inner.data)  # torchvision's small sets are arrays already
        images = raw[chosen]
        images = (
            images[:, None]
            if images.ndim == 3
            else images.permute(0, 3, 1, 2)
            if images.shape[-1] in (1, 3)
            else images
        )
        return images.contiguous(), targets[chosen].long()[:, None]
    images, labels = (
        torch.empty(len(chosen), *dataset.shape, dtype=torch.uint8),
        torch.empty(len(chosen), 1, dtype=torch.long),
    )
    done = 0
    for image, label, read in load(split, workers, batch_size=256):
        split.account(torch.arange(done, done + len(image)), read)
        images[done : done + len(image)], labels[done : done + len(image), 0] = image, label
        done += len(image)
    return images, labels


def read_through(dataset: Any, size: int, room: float, grey: bool = False) -> tuple[Tensor, Tensor]:
    """Every image of a data set that can only be read in sequence, in its own order, as `decode`
    gives them; at most `room` bytes.
    """
    if hasattr(
        dataset.reader, "dist_num_replicas"
    ):  # every process holds every image, and takes its slice of an order
        dataset.reader.dist_rank, dataset.reader.dist_num_replicas = 0, 1
    images: list[Tensor] = []
    labels: list[int] = []
    for picture, label in dataset:
        image = to_tensor(picture, size, grey)
        require_shape(image, tuple(images[0].shape) if images else tuple(image.shape), len(images))
        images.append(image)
        labels.append(int(label))
        if len(images) * image.numel() > room:
            raise UserError(
                "data.memory: a set that can only be read in sequence has to fit, and"
                f" {room / 2**30:g} GiB hold fewer than"
                f" {len(images)} images; allow more, set a smaller data.size, or use a copy with"
                " random access (hfds/ or a folder)"
            )
    if not images or len(images) < len(dataset):
        raise UserError(
            f"data.root: {len(images)} of {len(dataset)} images could be read; the warnings above"
            " say why the others could not"
        )
    return torch.stack(images), torch.tensor(labels)[:, None]


def digests_of(split: Split) -> dict[str, str]:
    """What a split that is not held in memory is recognised by.

    The list of its files with their labels, where it has files. Else its stored array and labels
    (torchvision's sets), or the digest that Hugging Face keeps of a set with a sample of decoded
    images, or that sample alone.
    """
    inner, chosen = split.images.dataset, split.chosen.tolist()  # type: ignore[attr-defined]
    samples = getattr(getattr(inner, "reader", inner), "samples", None)
    if samples and isinstance(samples[0][0], str | os.PathLike):
        top = getattr(getattr(inner, "reader", inner), "root", "")
        files = ((Path(samples[i][0]), int(samples[i][1])) for i in chosen)
        stats = ((path, path.stat(), label) for path, label in files)
        listed = digest_of_files(
            (os.path.relpath(path, top), stat.st_size, stat.st_mtime_ns, label)
            for path, stat, label in stats
        )
        return {
            "files": listed,
            "labels": digest(torch.tensor([int(samples[i][1]) for i in chosen])),
        }
    targets = torch.as_tensor(np.asarray(getattr(inner, "targets", getattr(inner, "labels", []))))
    data = getattr(inner, "data", None)
    if targets.ndim == 1 and len(targets) and isinstance(data, np.ndarray | Tensor):
        return {
            "content": digest(torch.as_tensor(data)[split.chosen]),
            "labels": digest(targets[split.chosen].long()),
        }
    known = getattr(getattr(getattr(inner, "reader", None), "dataset", None), "_fingerprint", "")
    images, labels = zip(
        *(split[int(i)][:2] for index, _ in eval_sampler(len(split), most=64) for i in index),
        strict=True,
    )
    found = {
        "sample": digest_of_sample(torch.stack(images)),
        "labels": digest(torch.tensor(labels)),
    }
    return found | ({"content": str(known)} if known else {})


def load(dataset: Split, workers: int, **options: Any) -> Iterator[Any]:
    """Batches from a DataLoader. A worker's mistake comes as the one line that was raised, and
    torch's own generator is left alone.
    """
    try:
        yield from DataLoader(dataset, num_workers=workers, generator=torch.Generator(), **options)
    except UserError as error:  # a worker's arrives with its traceback as text
        traceback.clear_frames(
            error.__traceback__
        )  # lets the workers go now; a loader that is collected later waits 5 s for each
        raise UserError(
            str(error).rstrip().splitlines()[-1].removeprefix("core.errors.UserError: ")
        ) from None
