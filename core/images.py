"""Images that are stored: held as one uint8 tensor where they fit, decoded by worker processes where they do not.

n = images in the split, B = images on this process.
"""

from core.batch import Batch
from core.errors import UserError
from core.randomness import Draws
from core.source import Order, Source
from core.views import Policy, augment

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class Resized(Dataset[tuple[Tensor, int]]):
    """A data set of (picture, label) as (uint8 [C, H, W], label), every image of one shape.

    With `size` the shorter side is resized to it and the centre is cut out; without, images have to be of one shape already.
    """

    def __init__(self, dataset: Any, size: int):
        self.dataset, self.size = dataset, size
        self.grey = np.asarray(dataset[0][0]).ndim == 2
        self.shape: tuple[int, int, int] = tuple(self._read(0)[0].shape)  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self._read(index)
        if tuple(image.shape) != self.shape:
            raise UserError(
                f"data.size: image {index} is {list(image.shape)} and image 0 is {list(self.shape)};"
                " set data.size so that they become one shape"
            )
        return image, label

    def _read(self, index: int) -> tuple[Tensor, int]:
        picture, label = self.dataset[index]
        picture = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
        picture = picture.convert("L" if self.grey else "RGB")
        if self.size and picture.size != (self.size, self.size):
            scale = self.size / min(picture.size)
            width, height = (max(self.size, round(side * scale)) for side in picture.size)
            left, top = (width - self.size) // 2, (height - self.size) // 2
            picture = picture.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + self.size, top + self.size))
        pixels = torch.from_numpy(np.array(picture))
        return (pixels[None] if self.grey else pixels.permute(2, 0, 1)).contiguous(), int(label)


class Arrays(Source):
    """A split in memory: uint8 images [n, C, H, W], batched by index."""

    def __init__(self, images: Tensor, labels: Tensor, factors: dict[str, int], policy: Policy):
        self.images, self.labels, self.factors, self.policy = images, labels, factors, policy
        self.shape = (images.shape[1], policy.size, policy.size) if policy.size else tuple(images.shape[1:])  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, order: Order, views: int) -> Iterator[Batch]:
        for index, draws in order:
            self.images, self.labels = self.images.to(draws.device), self.labels.to(draws.device)  # moved once, then held there
            here = index.to(draws.device)
            yield make_batch(self.images[here], self.labels[here], here, draws, self.policy, views)


class Stream(Source):
    """A split that is decoded as it is read. Workers only decode and resize; views are made by the batch, on the device."""

    def __init__(self, dataset: Resized, chosen: Tensor, factors: dict[str, int], policy: Policy, workers: int):
        self.dataset, self.chosen, self.factors, self.policy, self.workers = dataset, chosen, factors, policy, workers
        self.shape = dataset.shape

    def __len__(self) -> int:
        return len(self.chosen)

    def batches(self, order: Order, views: int) -> Iterator[Batch]:
        ahead, order = itertools.tee(order)  # workers run ahead of the batches
        wanted = (self.chosen[index].tolist() for index, _ in ahead)
        loader = DataLoader(self.dataset, batch_sampler=wanted, num_workers=self.workers, pin_memory=torch.cuda.is_available())  # type: ignore[arg-type]
        for (image, label), (index, draws) in zip(loader, order, strict=True):
            image = image.to(draws.device, non_blocking=True)
            yield make_batch(image, label[:, None].to(draws.device), index.to(draws.device), draws, self.policy, views)


def make_batch(image: Tensor, label: Tensor, index: Tensor, draws: Draws, policy: Policy, views: int) -> Batch:
    """Views of images that are on the device, each with draws of its own."""
    return Batch(tuple(augment(image, draws.fork(f"view{v}"), policy) for v in range(views)), label, index, draws)


def decode(dataset: Resized, chosen: Tensor, workers: int) -> tuple[Tensor, Tensor]:
    """The chosen images as uint8 [n, C, H, W] and their labels as int64 [n, 1]."""
    inner = dataset.dataset
    if not dataset.size and isinstance(getattr(inner, "data", None), np.ndarray | Tensor):  # torchvision's small sets are arrays already
        raw = torch.as_tensor(inner.data)
        targets = torch.as_tensor(np.asarray(inner.targets if hasattr(inner, "targets") else inner.labels))
        images = raw[chosen]
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2) if images.shape[-1] in (1, 3) else images
        return images.contiguous(), targets[chosen].long()[:, None]
    images, labels = torch.empty(len(chosen), *dataset.shape, dtype=torch.uint8), torch.empty(len(chosen), 1, dtype=torch.long)
    done = 0
    for image, label in DataLoader(dataset, batch_size=256, sampler=chosen.tolist(), num_workers=workers):
        images[done : done + len(image)], labels[done : done + len(image), 0] = image, label
        done += len(image)
    return images, labels
