"""The identity of a split: caches, reports and resumed runs use it to compare data.

n = images in the split.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK = 2**24  # bytes; blocks are hashed in parallel
# What each digest covers, for a message "other ...".
WORDS = {
    "labels": "labels",
    "pixels": "pixels",
    "contents": "files (names or contents)",
    "files": "files (names, sizes or times of change)",
    "content": "stored images",
    "sample": "images, in a sample",
    "sampled_labels": "labels, in a sample",
}


@dataclass(frozen=True)
class Identity:
    """What one split holds.

    `digests` are the hashes by which the split is recognised:

    - "pixels" and "labels": if the split is in memory.
    - "contents" (relative path and bytes of each file): if the split was read from files, in
      memory or streamed. If the files have more than 4 GiB in all, "files" (path, size and time of
      change) replaces it.
    - "content": if the split is a streamed array, a set to which Hugging Face gives a digest, or a
      file of features.
    - "sample" (some images): if the split is a streamed set of Hugging Face without a digest,
      another streamed set without files, or embedded data, whose views are endless.
    - "labels": in addition to "contents", "content" or "sample". If labels are not known without
      decoding, "sampled_labels" (those of the images in "sample") replaces it.
    """

    name: str  # data.name; `name` and `root` say where the data were found, not what they are
    split: str
    root: str
    images: int  # n
    shape: tuple[int, ...]  # (C, H, W) of an image before augmentation
    factors: dict[str, int]  # label column -> number of classes
    classes: tuple[str, ...]  # class names in the order of the labels, if known
    settings: dict[str, Any]  # the keys of the config that change pixels or labels
    digests: dict[str, str]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hex of everything except the place. A copy in another folder has the same one.

        If pixels and labels were hashed, the digests of files are left out.
        """
        digests = self.digests
        if "pixels" in digests:
            digests = {key: digests[key] for key in ("pixels", "labels")}
        facts = [self.split, self.images, list(self.shape), self.factors, list(self.classes)]
        facts += [self.settings, digests]
        return _sha256(facts)

    @cached_property
    def population(self) -> str:
        """SHA-256 in hex. Two splits with the same value give comparable numbers. It is the
        fingerprint or, for data that are drawn from a seed, a hash without seed and digests.
        """
        if "seed" not in self.settings:
            return self.fingerprint
        settings = {key: value for key, value in self.settings.items() if key != "seed"}
        return _sha256(
            [self.name, self.split, self.images, list(self.shape), self.factors, settings]
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the fingerprint and the population."""
        plain = asdict(self) | {"shape": list(self.shape), "classes": list(self.classes)}
        return plain | {"fingerprint": self.fingerprint, "population": self.population}

    def difference(self, other: Any) -> str:
        """One line that says how these data differ from `other`; empty if they do not.

        `other` is a result of `as_dict`, perhaps read from a file with arbitrary content. If the
        two have no digest in common, only the rest is compared. This happens, for example, if a
        Hugging Face set was held in memory before and now streams.
        """
        if not isinstance(other, Mapping):
            return f"the other data are described by {_shown(other)}, which is not an identity"
        mine = self.as_dict()
        found = [] if mine["split"] == other.get("split") else [_here(mine, other, "split")]
        settings = _mapping(other, "settings")
        for key in sorted(mine["settings"].keys() | settings.keys()):
            if mine["settings"].get(key) != settings.get(key):
                found.append(_here(mine["settings"], settings, key))
        if mine["classes"] != other.get("classes") or mine["factors"] != other.get("factors"):
            found.append(self._other_classes(other))
        if not found and mine["shape"] != other.get("shape"):
            found.append(_here(mine, other, "shape"))
        if mine["images"] != other.get("images"):
            found.append(f"{self.images} images instead of {_shown(other.get('images'))}")
        if found:
            return ", ".join(found)
        digests = _mapping(other, "digests")
        common = [key for key in WORDS if key in self.digests and key in digests]
        if "pixels" in common:
            common = ["labels", "pixels"]
        changed = [WORDS[key] for key in common if self.digests[key] != digests.get(key)]
        return f"other {' and other '.join(changed)}" if changed else ""

    def _other_classes(self, other: Mapping[str, Any]) -> str:
        there = other.get("classes")
        names = [str(name) for name in there] if isinstance(there, list | tuple) else []
        new = [name for name in self.classes if name not in names]
        gone = [name for name in names if name not in self.classes]
        if new or gone:
            said = [f"class {_shown(new[0])} is new"] if new else []
            return " and ".join(said + ([f"class {_shown(gone[0])} is gone"] if gone else []))
        if dict(self.factors) != other.get("factors"):
            factors = _shown(other.get("factors"))
            return f"labels have {self.factors} classes here and {factors} there"
        return "the same classes in another order"


def digest(data: Tensor | bytes) -> str:
    """SHA-256 in hex of a tensor's values or of bytes (hashed in blocks, then together)."""
    if isinstance(data, Tensor):
        flat = data.detach().cpu().contiguous().view(-1).view(torch.uint8)
        whole = flat.numpy().data
    else:
        whole = memoryview(data)
    blocks = [whole[first : first + BLOCK] for first in range(0, len(whole), BLOCK)]
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:  # hashlib frees the lock
        parts = list(pool.map(lambda block: hashlib.sha256(block).digest(), blocks))
    return hashlib.sha256(b"".join(parts)).hexdigest()


def digest_of_files(files: Iterable[tuple[str | int, ...]]) -> str:
    """SHA-256 in hex of what is known of each file, such as (relative path, size in bytes, time of
    change in ns, label), in order.
    """
    total = hashlib.sha256()
    for file in files:
        total.update(json.dumps(file).encode() + b"\n")
    return total.hexdigest()


def digest_of_sample(images: Tensor) -> str:
    """SHA-256 in hex of the bits "value > threshold", for randomly spread thresholds.

    Another processor may round the last digit of a rendered value differently. Such a difference
    changes a hash of the values, but it changes any of these bits only with a probability of about
    0.001. A renderer that moves all values by 0.001 of their range changes the digest almost
    surely. At most 8,192 evenly spread values are used.
    """
    values = images.detach().cpu().flatten()
    values = values[:: math.ceil(len(values) / 8192) or 1]
    u = np.random.default_rng(0).random(len(values))
    # uniform over the range of a byte; heavy-tailed for real values, whose range is unknown
    thresholds = 255 * u if images.dtype == torch.uint8 else np.tan(math.pi * (u - 0.5))
    bits = np.packbits(values.double().numpy() > thresholds)
    return hashlib.sha256(bits.tobytes()).hexdigest()


def _sha256(facts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _here(mine: Mapping[str, Any], other: Mapping[str, Any], key: str) -> str:
    return f"{key} is {_shown(mine.get(key))} here and {_shown(other.get(key))} there"


def _mapping(other: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = other.get(key)
    return value if isinstance(value, Mapping) else {}


def _shown(value: Any) -> str:
    """A value that may come from a foreign file, as one short line."""
    text = str(value) if isinstance(value, int | float | bool | None) else ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
