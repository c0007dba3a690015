"""Frozen features: extracted once per checkpoint and kept beside it, so that every probe is a
function of features, labels and a seed.

n = images, D = feature dimensions, F = label columns.
"""

from core.data.datasets import open_source
from core.data.source import Source, eval_sampler
from core.distributed import gather_round_robin, rank, world
from core.method import Method
from core.run.checkpoint import digest, write_atomically
from core.run.config import RunConfig, to_dict

import hashlib
import itertools
import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


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


def cached_features(
    checkpoint: Path, method: Method, run: RunConfig, split: str, device: torch.device | str = "cpu"
) -> Features:
    """Features of a split, read from beside the checkpoint where the same weights, data and split
    were read before.
    """
    source = open_source(run.data, split, run.seed, augmented=False)
    data = {
        key: value
        for key, value in to_dict(run)["data"].items()
        if key not in ("root", "download", "workers", "memory", "augment", "probe_augment")
    }
    key = hashlib.sha256(
        json.dumps([digest(checkpoint), data, split, run.seed], sort_keys=True).encode()
    ).hexdigest()[:16]
    path = checkpoint.parent / "features" / f"{checkpoint.stem}-{split}-{key}.safetensors"
    if path.is_file():
        try:
            kept = load_file(path)
            return Features(kept["x"], kept["y"], tuple(source.factors.items()))
        except (SafetensorError, OSError, KeyError):
            print(f"{path}: damaged, extracting again")
    features = extract(method, source, run.seed, device)
    path.parent.mkdir(exist_ok=True)
    for stale in path.parent.glob(f"{checkpoint.stem}-{split}-*.safetensors"):
        stale.unlink()  # of weights that the checkpoint no longer holds
    write_atomically(
        path,
        lambda temporary: save_file(
            {"x": features.x.contiguous(), "y": features.y.contiguous()}, temporary
        ),
    )
    return features
