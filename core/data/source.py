"""Where images come from: a source turns an order of indices into batches of views.

n = images in the split, B = images on this process, W = processes, F = label columns.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from core.batch import Batch
from core.data.identity import Identity, digest, digest_of_sample
from core.randomness import KeyedRNG

Sampler = Iterable[
    tuple[Tensor, KeyedRNG]
]  # (index int64 [B] on the CPU, the randomness of that batch)


@dataclass(frozen=True)
class Truth:
    """What is known exactly about the information that two views of an image share."""

    nats: float  # I(V1; V2)
    # number of negatives K -> the largest log(K + 1) - L that any critic reaches in expectation,
    # in nats
    best_infonce: Callable[[int], float]


class Source(ABC):
    """One split of a data set. Everything random about a batch comes from the draws that its order
    holds.

    A set that is made rather than read has a dataclass `Config` and is built as `Set(config, split,
    seed)`, with split "train", "val", "trainval" (train followed by val) or "test".
    """

    Config: ClassVar[type]
    name: str = ""  # as data.name has it
    split: str = ""
    config: Any = None  # a dataclass, of a set that has keys of its own
    seed: int = 0  # of the run; embedded data depend on it
    factors: dict[str, int]  # label column -> number of classes, e.g. {"class": 10}
    shape: tuple[int, int, int]  # (C, H, W)
    truth: Truth | None = None  # what is known of the information between two views
    rendered: ClassVar[bool] = False  # whether every view is a fresh rendering of the content
    augmentation: str = "none"  # what makes two views of an image differ, in a word

    @classmethod
    def check(cls, data: Any) -> None:
        """Raise ValueError("key: what is wrong") where keys of `core.data.datasets.DataConfig` do
        not go with this set.
        """
        if not cls.rendered:
            return
        for key in ("grey", "binarise"):
            if getattr(data, key):
                raise ValueError(
                    f"{key}: {data.name} makes its images afresh each time, as it makes them; set"
                    " it to false"
                )
        side = getattr(cls, "shape", (0, data.size))[1]  # some sets know it only once they are made
        if data.size not in (0, side):
            raise ValueError(f"size: {data.name} makes images of side {side}; leave it out")

    @cached_property
    def identity(self) -> Identity:
        """What this split holds, computed at first use and kept."""
        return self.identify()

    def identify(self) -> Identity:
        """An identity from the config, the seed and the first view of at most 64 images."""
        order = eval_sampler(len(self), self.seed, 16, purpose="identity", most=64)
        batches = list(self.batches(order, 1))
        settings = dataclasses.asdict(self.config) if self.config is not None else {}
        return Identity(
            name=self.name or type(self).__name__,
            split=self.split,
            root="",
            images=len(self),
            shape=tuple(self.shape),
            factors=dict(self.factors),
            classes=(),
            settings=settings | {"seed": self.seed},
            digests={
                "sampled_labels": digest(torch.cat([batch.label for batch in batches])),
                "sample": digest_of_sample(torch.cat([batch.views[0] for batch in batches])),
            },
        )

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(self, order: Sampler, views: int) -> Iterator[Batch]:
        """One batch an entry of the order, with that many views of each image, on the device of the
        entry's draws.
        """


def train_sampler(
    n: int,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
) -> Sampler:
    """Batches number `start` to `stop` of endless shuffled epochs; batch i is a function of (seed,
    i) alone.

    `batch_size` is the global one, and each process takes its W-th part. An epoch holds n //
    batch_size whole batches.
    """
    per_epoch, mine = n // batch_size, batch_size // world
    epoch, shuffled = -1, torch.empty(0)
    for step in range(start, stop):
        if epoch != step // per_epoch:
            epoch = step // per_epoch
            shuffled = KeyedRNG(seed, epoch).permutation("epoch order", n)
        first = (step % per_epoch) * batch_size + rank * mine
        yield shuffled[first : first + mine], KeyedRNG(seed, step, rank, world, device)


def eval_sampler(
    n: int,
    seed: int = 0,
    block: int = 512,
    device: torch.device | str = "cpu",
    purpose: str = "read",
    most: int | None = None,
) -> Sampler:
    """Images once, in order, in blocks; the draws of a block are a function of (seed, block number,
    purpose).

    With `most`, at most that many images, evenly spread over the split.
    """
    chosen = torch.arange(n) if most is None or most >= n else torch.arange(most) * n // most
    for number, index in enumerate(chosen.split(block)):
        yield index, KeyedRNG(seed, number, device=device).fork(purpose)
