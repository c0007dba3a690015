"""Where images come from: a source turns an order of indices into batches of views.

n = images in the split, B = images on this process, W = processes, F = label columns.
"""

from core.batch import Batch
from core.randomness import KeyedRNG

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

Sampler = Iterable[
    tuple[Tensor, KeyedRNG]
]  # (index int64 [B] on the CPU, the randomness of that batch)


class Source(ABC):
    """One split of a data set. Everything random about a batch comes from the draws that its order
    holds.
    """

    factors: dict[str, int]  # label column -> number of classes, e.g. {"class": 10}
    shape: tuple[int, int, int]  # (C, H, W)
    information: float | None = None  # the true I(V1; V2) in nats, where it is known

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
