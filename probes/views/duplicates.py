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
        for index, code in zip(batch.index.tolist(), _codes(batch.views[0]), strict=True):
            if code in seen:
                found.append(index)
            seen.add(code)
    return torch.tensor(found, dtype=torch.int64)


def said_of_leaks(frozen: Frozen) -> str:
    """A line if some test images are also training images, or if this was not looked for, else "".
    Only splits that are held in memory are compared, because other splits would have to be decoded
    a second time. Images that are rendered for each view have no copies.
    """
    if not frozen.has_images:
        return ""
    test, train = frozen.source("test"), frozen.source("trainval")
    if test.rendered:
        return ""
    if not (isinstance(test, Arrays) and isinstance(train, Arrays)):
        return (
            "not looked for: test images that are also training images, because the images are not"
            " held in memory; for a set that is read from files, a larger data.memory (GiB) holds"
            " them"
        )
    known = set(_codes(train.images))
    seen = sum(code in known for code in _codes(test.images))
    if not seen:
        return ""
    return (
        f"{seen:,} of {len(test):,} test images are also among the training images, so accuracies"
        " and bounds are not those of new images; remove them from one of the two splits"
    )


def _codes(images: Tensor) -> list[bytes]:
    """A hash of the pixels of each image [n, C, H, W]."""
    rows = images.cpu().numpy()
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
