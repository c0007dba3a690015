"""Frozen features of a split, extracted by all processes together while a run is validated.

n = images, D = feature dimensions, F = label columns.
"""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from core.data.source import Source, eval_sampler
from core.distributed import gather_round_robin, rank, world
from core.method import Method


class Features(NamedTuple):
    """What a probe is given of one split."""

    x: Tensor  # float32 [n, D]
    y: Tensor  # int64 [n, F]
    factors: tuple[tuple[str, int], ...]  # label column -> number of classes


@torch.no_grad()
def extract(
    method: Method,
    source: Source,
    seed: int,
    device: torch.device | str = "cpu",
    most: int | None = None,
) -> Features:
    """Features of every image (or of `most` images spread over the split), from the method in eval
    mode.

    Each image is read by one of the processes, and all of them get everything.
    """
    order = eval_sampler(len(source), seed, device=device, purpose="features", most=most)
    was_training = method.training
    method.eval()
    mine = itertools.islice(order, rank(), None, world())
    parts = gather_round_robin(
        [
            (method.embed(batch.views[0]).float().cpu(), batch.label.cpu())
            for batch in source.batches(mine, 1)
        ]
    )
    method.train(was_training)
    return Features(
        torch.cat([x for x, _ in parts]),
        torch.cat([y for _, y in parts]),
        tuple(source.factors.items()),
    )
