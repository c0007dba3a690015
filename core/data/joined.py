"""The split "trainval", train followed by val, for data sets of a user. The user's Python class
makes only train, val and test.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from core.batch import Batch
from core.data.identity import Identity, digest
from core.data.images import Arrays, Stored
from core.data.source import Sampler, Source
from core.randomness import KeyedRNG


def joined(train: Source, val: Source) -> Source:
    """The split "trainval". Images in memory without captions are put together; other sets read
    the batches of both parts.
    """
    if not (isinstance(train, Arrays) and isinstance(val, Arrays)) or train.told:
        return Joined(train, val)
    whole = copy.copy(train)
    for key in ("images", "labels", "host_labels"):
        setattr(whole, key, torch.cat([getattr(train, key), getattr(val, key)]))
    whole.facts = replace(train.facts, split="trainval", identity=None)
    whole.__dict__.pop("identity", None)  # a property that `train` may have computed
    return whole


class Joined(Source):
    """The split "trainval": image i is image i of train, or image i - len(train) of val. So labels,
    contents and lengths of the three splits agree, whatever the user's class does. Stored images
    have the views of the two parts.
    """

    def __init__(self, train: Source, val: Source):
        self._of(train, val)

    def view(self, change: Callable[[Source], Source]) -> None:
        """Give both parts other views."""
        self._of(change(self.train), change(self.val))

    def _of(self, train: Source, val: Source) -> None:
        self.train, self.val = train, val
        self.factors, self.shape, self.truth = train.factors, train.shape, train.truth
        self.captioned, self.captions_of_labels = train.captioned, train.captions_of_labels
        self.text_truth, self.augmentation = train.text_truth, train.augmentation
        self.rendered = train.rendered  # type: ignore[misc]
        self.prompts, self.contrasts = train.prompts, train.contrasts  # type: ignore[method-assign]
        self.unseen = train.unseen  # type: ignore[method-assign]

    def __len__(self) -> int:
        return len(self.train) + len(self.val)

    def identify(self) -> Identity:
        """That of a sample or, for stored images, the digests of both parts together."""
        if not isinstance(self.train, Stored):
            return super().identify()
        one, other = self.train.identity, self.val.identity
        both = {
            key: one.digests[key] + other.digests[key]
            for key in one.digests
            if key in other.digests
        }
        digests = {key: digest(value.encode()) for key, value in both.items()}
        return replace(one, split=self.split, images=len(self), digests=digests)

    def batches(self, order: Sampler, views: int) -> Iterator[Batch]:
        first = len(self.train)
        entries = list(order)
        inside = [index < first for index, _ in entries]
        both = list(zip(entries, inside, strict=True))
        of_train = [(index[mask], rng) for (index, rng), mask in both if mask.any()]
        of_val = [(i[~mask] - first, _own(rng, mask)) for (i, rng), mask in both if not mask.all()]
        halves = iter(self.train.batches(of_train, views)), iter(self.val.batches(of_val, views))
        for (index, rng), mask in both:
            needed = zip(halves, (mask, ~mask), strict=True)
            yield _merged([(next(half), rows) for half, rows in needed if rows.any()], index, rng)


def _own(rng: KeyedRNG, mask: Tensor) -> KeyedRNG:
    """Random numbers of the rows of val. In a batch of both splits, val must not repeat those that
    train gets.
    """
    return rng.fork("val") if mask.any() else rng


def _merged(parts: list[tuple[Batch, Tensor]], index: Tensor, rng: KeyedRNG) -> Batch:
    """One batch from the rows of each part, in the order of `index`."""
    places = torch.cat([rows.nonzero()[:, 0] for _, rows in parts])
    back = places.argsort()
    made = [batch for batch, _ in parts]

    def joined(tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors)[back.to(tensors[0].device)]

    views = tuple(joined(list(view)) for view in zip(*(b.views for b in made), strict=True))
    texts = [text for batch in made for text in batch.text]
    text = tuple(texts[i] for i in back.tolist()) if texts else ()
    return Batch(views, joined([batch.label for batch in made]), index, rng, text)
