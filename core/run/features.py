"""Frozen features of a split, which all processes extract together during validation.

n = images, D = feature dimensions, F = label columns.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from core.data.source import Source, eval_sampler
from core.distributed import gather_round_robin, rank, world
from core.method import Method


class Features(NamedTuple):
    """The input of a probe from one split."""

    x: Tensor  # float32 [n, D]
    y: Tensor  # int64 [n, F]
    factors: tuple[tuple[str, int], ...]  # label column -> number of classes

    @classmethod
    def of(cls, x: Tensor, y: Tensor, factors: Mapping[str, int]) -> "Features":
        """The features with their labels. Label columns with a single class are left out if there
        are others. Every probe predicts such columns without error, so a mean over columns would
        look better than it is.
        """
        kept = [column for column, classes in enumerate(factors.values()) if classes > 1]
        named = tuple(factors.items())
        kept = kept or list(range(len(named)))
        return cls(x, y[:, kept], tuple(named[column] for column in kept))


@torch.no_grad()
def extract(
    method: Method,
    source: Source,
    seed: int,
    device: torch.device | str = "cpu",
    most: int | None = None,
) -> Features:
    """Features of all images (or of `most`, evenly spread), in eval mode.

    Each image is encoded by one process, and all processes get all features.
    """
    order = eval_sampler(len(source), seed, device=device, purpose="features", most=most)
    was_training = method.training
    method.eval()
    batches = source.batches(itertools.islice(order, rank(), None, world()), 1)
    parts = gather_round_robin(
        [(method.embed(batch.views[0]).float().cpu(), batch.label.cpu()) for batch in batches]
    )
    method.train(was_training)
    x, y = (torch.cat(rows) for rows in zip(*parts, strict=True))
    return Features.of(x, y, source.factors)
