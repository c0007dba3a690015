"""Copies of an image. Within a split, a copy of the anchor among its negatives is not an
independent sample, and no critic can distinguish it from the anchor. A test image that is also a
training image was seen before it is tested.
"""

import hashlib

import torch
from torch import Tensor

from core.data.images import Arrays
from core.data.source import Source, eval_sampler
from core.frozen import Frozen


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


def said_of_leaks(frozen: Frozen) -> str:
    """A line if some test images are also training images, else "". Only splits that are held in
    memory are compared: others would be decoded once more.
    """
    if not frozen.has_images:
        return ""
    test, train = frozen.source("test"), frozen.source("trainval")
    if not (isinstance(test, Arrays) and isinstance(train, Arrays)):
        return ""
    known = set(train.codes())
    seen = sum(code in known for code in test.codes())
    if not seen:
        return ""
    return (
        f"{seen:,} of {len(test):,} test images are also among the training images, so accuracies"
        " and bounds are not those of new images; remove them from one of the two splits"
    )
