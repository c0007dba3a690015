"""A source of images: it turns a sampler's indices into batches of views.

n = images in the split, B = images on this process, W = processes, F = label columns.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from core.batch import Batch
from core.data.identity import Identity, digest, digest_of_sample
from core.randomness import KeyedRNG

BLOCK = 512  # images that are read at a time

# (index int64 [B] on the CPU, the random numbers of that batch)
Sampler = Iterable[tuple[Tensor, KeyedRNG]]


@dataclass(frozen=True)
class Truth:
    """Exact knowledge about the information that two views of an image share."""

    nats: float  # I(V1; V2)
    # number of negatives K -> the largest expected log(K + 1) - L of any critic, in nats, where L
    # is its InfoNCE loss
    best_infonce: Callable[[int], float]


@dataclass(frozen=True)
class TextTruth:
    """Exact knowledge about the information between an image and its caption."""

    nats: float  # I(image; caption)
    # number of negatives K -> the largest expected log(K + 1) - L of any critic, in nats, with L as
    # in `Truth`: for an image against captions, and for a caption against images
    from_image: Callable[[int], float]
    from_text: Callable[[int], float]
    # (number of pairs, k) -> the largest expected share of images (or captions) whose own partner
    # is among the k nearest
    recall_from_image: Callable[[int, int], float]
    recall_from_text: Callable[[int, int], float]
    told: Mapping[str, float]  # factor -> the probability that a caption tells it


class Source(ABC):
    """One split of a data set. All randomness of a batch comes from the sampler's `KeyedRNG`.

    A set that is generated, not read, has a dataclass `Config` and is built as `Set(config, split,
    seed)`. The split is "train", "val" or "test"; sets of the project also make "trainval" (train
    followed by val).
    """

    Config: ClassVar[type]
    name: str = ""  # data.name
    split: str = ""
    config: Any = None  # a dataclass, if the set has keys of its own
    seed: int = 0  # the run's seed, for sets that are generated
    factors: dict[str, int]  # label column -> number of classes, e.g. {"class": 10}
    shape: tuple[int, int, int]  # (C, H, W)
    truth: Truth | None = None  # the known information between two views
    captioned: bool = False  # whether batches have `text`
    captions_of_labels: bool = False  # whether captions were made from labels
    text_truth: TextTruth | None = None  # the known information between an image and its caption
    rendered: ClassVar[bool] = False  # whether each view is a new rendering of the content
    augmentation: str = "none"  # what makes two views differ, in a word
    waited: float = 0.0  # seconds in which training waited for images that were not ready

    @classmethod
    def check(cls, data: Any) -> None:
        """ValueError("key: what is wrong") if keys of `DataConfig` do not fit this set."""
        if not cls.rendered:
            return
        for key in ("grey", "binarise"):
            if getattr(data, key):
                raise ValueError(f"{key}: {data.name} renders its images; set it to false")
        # some sets know their shape only after they are built
        side = getattr(cls, "shape", (0, data.size))[1]
        if data.size not in (0, side):
            raise ValueError(f"size: {data.name} makes images of side {side}; leave data.size out")

    @cached_property
    def identity(self) -> Identity:
        """What this split holds; computed at first use."""
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

    def captions(self, most: int) -> Iterator[str]:
        """Captions of at most that many images, evenly spread, if the set is `captioned`."""
        order = eval_sampler(len(self), self.seed, purpose="captions", most=most)
        return (text for batch in self.batches(order, 0) for text in batch.text)

    def prompts(self) -> dict[str, list[list[str]]]:
        """Factor -> for each of its values, sentences that state this value; {} if unknown. What
        they state about other factors does not depend on the value.
        """
        return {}

    def contrasts(self, label: Tensor, rng: KeyedRNG) -> dict[str, list[tuple[str, str] | None]]:
        """Kind of exchange -> for each image with labels [n, F], a true and a false caption in the
        same words, or None where the false caption would be true. {} if the set has no such kinds.
        """
        return {}

    def unseen(self, label: Tensor) -> Tensor | None:
        """Which rows of labels [n, F] are combinations that train never shows, bool [n]; None if
        train may show all.
        """
        return None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(self, order: Sampler, views: int) -> Iterator[Batch]:
        """One batch per sampler entry, with `views` views of each image, on the entry's device."""


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
    """Batches `start` to `stop` of endless shuffled epochs. Batch i is a function of (seed, i).

    `batch_size` is global, and each process gets 1/W of it. An epoch has n // batch_size
    batches.
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
    block: int = BLOCK,
    device: torch.device | str = "cpu",
    purpose: str = "read",
    most: int | None = None,
) -> Sampler:
    """All images once, in order, in blocks. The random numbers of a block are a function of (seed,
    block number, purpose). With `most`, at most that many images, evenly spread over the split.
    """
    for number, index in enumerate(spread(n, most).split(block)):
        yield index, KeyedRNG(seed, number, device=device).fork(purpose)


def spread(n: int, most: int | None = None, block: int = 1) -> Tensor:
    """Places of all n images or of `most` of them, in order: blocks of neighbours, evenly spread.

    >>> spread(12, 5).tolist(), spread(12, 5, block=3).tolist()
    ([0, 2, 4, 7, 9], [0, 1, 2, 6, 7])
    """
    if most is None or most >= n:
        return torch.arange(n)
    blocks, wanted = -(-n // block), -(-most // block)
    first = torch.arange(wanted) * blocks // wanted * block
    places = (first[:, None] + torch.arange(block)).flatten()
    return places[places < n][:most]
