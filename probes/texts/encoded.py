"""The codes of images and of their captions, from a frozen encoder that reads both.

n = images, D, E = features of images and of texts, P = code dimensions, F = label columns.
"""

from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from core.data.source import eval_sampler, spread
from core.frozen import Frozen
from core.method import TextCritic
from core.randomness import KeyedRNG
from probes.views.duplicates import duplicates

BLOCK = 512  # texts encoded at a time


class TextPairs(NamedTuple):
    """The encodings of n plain images and of a caption of each, in random order."""

    features: tuple[Tensor, Tensor]  # float32 [n, D] of images, [n, E] of captions
    codes: tuple[Tensor, Tensor]  # float32 [n, P] each, of unit length
    texts: list[str]
    label: Tensor  # int64 [n, F]
    place: Tensor  # int64 [n], in the split

    @property
    def distinct(self) -> int:
        return len(set(self.texts))


_seen: WeakKeyDictionary[Frozen, dict[tuple[str, int | None], TextPairs]] = WeakKeyDictionary()


def without_captions(frozen: Frozen) -> str:
    """Why a probe of captions can not be measured, or ""."""
    if not isinstance(frozen.method, TextCritic):
        return "the encoder reads no captions"
    return "" if frozen.source("test").captioned else "the images have no captions"


def text_pairs(frozen: Frozen, split: str, most: int | None = None) -> TextPairs:
    """The pairs of a split, or `most` of them, evenly spread. Copies of an image are left out of
    test. The pairs are kept in memory, because several probes read them.
    """
    held = _seen.setdefault(frozen, {})
    if (split, most) not in held:
        held[split, most] = _encoded(frozen, split, most)
    return held[split, most]


@torch.no_grad()
def _encoded(frozen: Frozen, split: str, most: int | None) -> TextPairs:
    source, method = frozen.source(split), frozen.method
    assert isinstance(method, TextCritic)
    # this gives the same images as `Frozen.features` and `Frozen.images`
    seed, device = frozen.run.seed, frozen.device
    sampler = list(eval_sampler(len(source), seed, BLOCK, device, "features", most))
    total = len(spread(len(source), most))
    features, codes, labels, places = [], [], [], []
    texts: list[str] = []
    for batch in frozen.watched(f"captions of {split}", source, sampler, 1, total):
        made = method.encode(batch.views[0])
        assert made.codes is not None
        features.append(made.features.float().cpu())
        codes.append(made.codes.float().cpu())
        texts += batch.text
        labels.append(batch.label.cpu())
        places.append(batch.index.cpu())
    text_features, text_codes = encoded_texts(frozen, texts)
    place = torch.cat(places)
    kept = torch.arange(len(place))
    if split == "test" and len(copies := duplicates(source, frozen.device)):
        kept = kept[~torch.isin(place, copies)]
    rows = kept[KeyedRNG(frozen.seed, 0).permutation("pairs", len(kept))]
    return TextPairs(
        (torch.cat(features)[rows], text_features[rows]),
        (torch.cat(codes)[rows], text_codes[rows]),
        [texts[row] for row in rows.tolist()],
        torch.cat(labels)[rows],
        place[rows],
    )


@torch.no_grad()
def encoded_texts(frozen: Frozen, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Features [n, E] and unit codes [n, P] of texts. Equal texts are encoded once, so that their
    codes are equal in all bits.
    """
    method = frozen.method
    assert isinstance(method, TextCritic)
    number = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    distinct, features, codes = list(number), [], []
    for first in range(0, len(distinct), BLOCK):
        made = method.encode_text(distinct[first : first + BLOCK])
        assert made.codes is not None
        features.append(made.features.float().cpu())
        codes.append(made.codes.float().cpu())
    rows = torch.tensor([number[text] for text in texts])
    return torch.cat(features)[rows], torch.cat(codes)[rows]
