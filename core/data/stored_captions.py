"""Captions of stored images: texts of each image, or sentences made from the names of classes.

n = images in the split, B = images of a batch, F = label columns.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from torch import Tensor

from core.data.identity import digest
from core.randomness import KeyedRNG

FROM_CLASSES = "from_classes"  # the value of data.captions for captions made from class names
# Templates that fit any picture. All except "a picture of a {}." are among the 80 that Radford et
# al. 2021 use for ImageNet.
TEMPLATES = (
    "a photo of a {}.",
    "a picture of a {}.",
    "a bad photo of a {}.",
    "a good photo of a {}.",
    "a close-up photo of a {}.",
    "a blurry photo of a {}.",
    "a photo of the small {}.",
    "a photo of the large {}.",
)


class StoredCaptions(ABC):
    """Gives each image of a split a caption."""

    of_labels = False  # whether captions say what the labels say

    @abstractmethod
    def texts(self, place: Tensor, label: Tensor, rng: KeyedRNG) -> tuple[str, ...]:
        """Captions of images at these places [B] of the split, with labels [B, F]."""

    @abstractmethod
    def some(self, most: int) -> Iterator[str]:
        """Captions from which a tokenizer learns its words: those of at most `most` images, or all
        sentences that are made from classes.
        """

    @abstractmethod
    def identity(self) -> str:
        """A text by which these captions are recognised."""


class Told(StoredCaptions):
    """The captions that come with images. If an image has several, one is drawn for each batch."""

    def __init__(self, captions: Sequence[str | Sequence[str]]):
        self.captions = [(one,) if isinstance(one, str) else tuple(one) for one in captions]
        self.several = any(len(one) > 1 for one in self.captions)

    def texts(self, place: Tensor, label: Tensor, rng: KeyedRNG) -> tuple[str, ...]:
        told = [self.captions[i] for i in place.tolist()]
        if not self.several:
            return tuple(one for (one,) in told)
        drawn = rng.fork("caption").uniform("which", len(told)).tolist()
        return tuple(one[int(u * len(one))] for one, u in zip(told, drawn, strict=True))

    def some(self, most: int) -> Iterator[str]:
        step = -(-len(self.captions) // most)
        return (text for one in self.captions[::step] for text in one)

    def identity(self) -> str:
        return digest("\0".join("\1".join(one) for one in self.captions).encode())


class FromClasses(StoredCaptions):
    """A sentence with the name of the image's class; the sentence is drawn for each batch."""

    of_labels = True

    def __init__(self, classes: Sequence[str]):
        self.sentences = sentences_of(classes)

    def texts(self, place: Tensor, label: Tensor, rng: KeyedRNG) -> tuple[str, ...]:
        drawn = rng.fork("caption").integers("template", len(TEMPLATES), len(label)).tolist()
        rows = zip(label[:, 0].tolist(), drawn, strict=True)
        return tuple(self.sentences[name][template] for name, template in rows)

    def some(self, most: int) -> Iterator[str]:
        return (text for sentences in self.sentences for text in sentences)

    def identity(self) -> str:
        return FROM_CLASSES


def sentences_of(classes: Sequence[str]) -> list[list[str]]:
    """Every template with the name of each class."""
    return [[one.format(name.replace("_", " ")) for one in TEMPLATES] for name in classes]
