"""Copies of an image in a split. A copy of the anchor among its negatives is not an independent
sample, and no critic can distinguish it from the anchor.
"""

import hashlib

import torch
from torch import Tensor

from core.data.source import Source, eval_sampler


def duplicates(source: Source, device: torch.device | str = "cpu") -> Tensor:
    """Indices int64 of the images that equal an earlier one of the split in all values.

    `source` gives plain images. Images that are rendered again on every access have no copies.
    """
    if source.rendered:
        return torch.empty(0, dtype=torch.int64)
    seen: set[bytes] = set()
    found: list[int] = []
    for batch in source.batches(eval_sampler(len(source), device=device, purpose="copies"), 1):
        for index, image in zip(batch.index.tolist(), batch.views[0].cpu().numpy(), strict=True):
            code = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            if code in seen:
                found.append(index)
            seen.add(code)
    return torch.tensor(found, dtype=torch.int64)
