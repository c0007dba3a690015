"""Decode the images of a data set.

n = images in the split.
"""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from core.data.notes import Notes, printable
from core.data.pixels import TooDeep, is_grey, open_picture, to_tensor
from core.data.skipping import Split, Undecodable, first_decodable
from core.data.workers import load, sensible
from core.errors import UserError


class Resized(Dataset[tuple[Tensor, int, int]]):
    """A data set of (picture, label), read as (uint8 [C, H, W], label, note). All images have one
    shape.

    With `size`, the shorter side is resized to it and the centre is cut out. Without `size`, all
    images must have one shape. With `grey`, images have one channel. Without `grey`, images from
    files have three channels, and other images have as many as the first image.
    """

    def __init__(
        self, dataset: Any, size: int, grey: bool = False, skip: float = 0.0, bits: int = 16
    ):
        self.dataset, self.size, self.grey, self.bits = dataset, size, grey, bits
        self.as_stored = not (size or grey)
        first = first_decodable(self._read, len(dataset), skip)
        item = self._item(first)[0]
        self.grey = grey or not isinstance(item, bytes) and is_grey(open_picture(item))
        self.shape: tuple[int, int, int] = tuple(self._read(first)[0].shape)  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        image, label, note = self._read(index)
        require_shape(image, self.shape, index)
        return image, label, note

    def _read(self, index: int) -> tuple[Tensor, int, int]:
        try:
            item, label = self._item(index)
        except OSError as error:
            if error.errno is None:
                raise
            raise UserError(
                f"data.root: image {index}: {printable(error.filename or '')} can not be read"
                f" ({error.strerror})"
            ) from None
        except Undecodable as error:
            raise self._undecodable(index, str(error)) from None
        try:
            image, note = to_tensor(open_picture(item), self.size, self.grey, self.bits)
        except MemoryError:
            raise
        except TooDeep as error:
            raise UserError(f"data.bits: {self._name(index)} {error}") from None
        # anything that Pillow raises for strange bytes, such as DecompressionBombError
        except Exception as error:
            unknown = isinstance(error, UnidentifiedImageError)
            reason = "not an image that Pillow knows" if unknown else printable(error)
            raise self._undecodable(index, reason) from None
        return image, int(label), note

    def _undecodable(self, index: int, reason: str) -> Undecodable:
        return Undecodable(
            f"data.root: {self._name(index)} can not be decoded ({reason}); repair or remove it"
        )

    def _item(self, index: int) -> tuple[Any, int]:
        """The stored item, not decoded if it is a file. (timm itself would silently use another
        image in the place of one that can not be decoded.)
        """
        if not hasattr(self.dataset, "reader"):
            return self.dataset[index]
        file, label = self.dataset.reader[index][:2]
        with file:
            return file.read(), -1 if label is None else label

    def _name(self, index: int) -> str:
        """The file of an image, or its number."""
        samples = getattr(self.dataset, "samples", None)
        if samples:
            return printable(samples[index][0])
        if hasattr(self.dataset, "reader"):
            return printable(self.dataset.filename(index, absolute=True))
        return f"image {index}"


def require_shape(image: Tensor, shape: tuple[int, ...], index: int) -> None:
    if tuple(image.shape) != shape:
        raise UserError(
            f"data.size: image {index} has the shape {list(image.shape)}, but the first"
            f" readable image has {list(shape)}; set data.size, so that all images have one shape"
        )


def decode(
    dataset: Resized, split: Split, workers: int, timeout: float = math.inf
) -> tuple[Tensor, Tensor]:
    """The images of a split, uint8 [n, C, H, W], and their labels, int64 [n, F]. F is 1 unless the
    data set has a table of labels.
    """
    inner, chosen = dataset.dataset, split.chosen
    targets = torch.as_tensor(np.asarray(getattr(inner, "targets", getattr(inner, "labels", []))))
    stored = getattr(inner, "data", None)
    if dataset.as_stored and targets.ndim == 1 and isinstance(stored, np.ndarray | Tensor):
        images = torch.as_tensor(stored)[chosen]  # torchvision's small sets are arrays
        if images.ndim == 3:
            images = images[:, None]
        elif images.shape[-1] in (1, 3):
            images = images.permute(0, 3, 1, 2)
        return images.contiguous(), targets[chosen].long()[:, None]
    images = torch.empty(len(chosen), *dataset.shape, dtype=torch.uint8)
    table = getattr(inner, "table", None)
    labels = torch.empty(len(chosen), 1 if table is None else table.shape[1], dtype=torch.long)
    done, workers = 0, min(sensible(workers), math.ceil(len(chosen) / 256))
    for image, label, read, notes in load(split, workers, timeout, batch_size=256):
        split.account(torch.arange(done, done + len(image)), read, notes)
        label = label[:, None] if table is None else table[chosen[read]]
        images[done : done + len(image)], labels[done : done + len(image)] = image, label
        done += len(image)
    return images, labels


def read_through(
    dataset: Any, size: int, room: float, grey: bool = False, bits: int = 16, where: str = ""
) -> tuple[Tensor, Tensor]:
    """All images of a data set without random access, in its order, as `decode` returns them.

    `room`: the largest allowed size in bytes.
    """
    if hasattr(dataset.reader, "dist_num_replicas"):
        # every process holds all images, and takes its slice of each batch
        dataset.reader.dist_rank, dataset.reader.dist_num_replicas = 0, 1
    images: list[Tensor] = []
    labels: list[int] = []
    notes = Notes(where, bits)
    for picture, label in dataset:
        image, note = _in_sequence(picture, len(images), size, grey, bits)
        notes.add([note])
        require_shape(image, tuple(images[0].shape) if images else tuple(image.shape), len(images))
        images.append(image)
        labels.append(int(label))
        if len(images) * image.numel() > room:
            raise UserError(
                "data.memory: a set without random access must fit into memory, but"
                f" {room / 2**30:g} GiB hold fewer than {len(images)} images; allow more, set a"
                " smaller data.size, or use a copy with random access (hfds/ or a folder)"
            )
    if not images or len(images) < len(dataset):
        raise UserError(
            f"data.root: {len(images)} of {len(dataset)} images could be read; the warnings above"
            " say why the others could not"
        )
    notes.judge()
    return torch.stack(images), torch.tensor(labels)[:, None]


def _in_sequence(
    picture: Image.Image, index: int, size: int, grey: bool, bits: int
) -> tuple[Tensor, int]:
    try:
        return to_tensor(picture, size, grey, bits)
    except TooDeep as error:
        raise UserError(f"data.bits: image {index} {error}") from None
    except Undecodable as error:
        raise UserError(f"data.root: image {index}: {error}") from None
