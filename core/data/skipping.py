"""Images that can not be decoded: up to a given share of a split may be replaced by other images.

n = images in the split.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from core.errors import UserError


class Undecodable(UserError):
    """The bytes of an image are not a picture. (A read error is different: it may be temporary.)"""


class Images(Protocol):
    """A data set of (uint8 [C, H, W], label, note) that raises `Undecodable`."""

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]: ...


class Noted(Protocol):
    """A receiver of images' notes, such as `core.data.notes.Notes`."""

    def add(self, notes: Iterable[int]) -> None: ...

    def judge(self) -> None: ...


class Split(Dataset[tuple[Tensor, int, int, int]]):
    """Chosen images of a data set by their place in the split, as (image, label, place that was
    read, note).

    An image that can not be decoded is replaced by the next decodable image of the split and the
    label of that image. The replacement depends only on the files, so batch i stays a function of
    (seed, i), in memory, streamed or resumed.
    """

    def __init__(self, images: Images, chosen: Tensor, share: float, notes: Noted | None = None):
        self.images, self.chosen, self.share, self.notes = images, chosen, share, notes
        self.allowed = int(share * len(chosen))
        self.skipped: set[int] = set()  # places of undecodable images that this process has met
        self.read = torch.arange(len(chosen))  # for each place, the place that is read instead

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, place: int) -> tuple[Tensor, int, int, int]:
        for further in range(self.allowed + 1):
            read = (place + further) % len(self)
            try:
                image, label, note = self.images[int(self.chosen[read])]
            except Undecodable as error:
                if further == self.allowed:
                    raise self._beyond(str(error)) from None
                continue
            return image, label, read, note
        raise AssertionError

    def account(self, wanted: Tensor, read: Tensor, notes: Tensor) -> None:
        """Report and count replaced images, given the wanted places and those that were read, and
        pass the notes on.

        Called in the training process, which sees the results of all workers. Raises `UserError`
        beyond the allowed share.
        """
        if self.notes:
            self.notes.add(notes.tolist())
        self.read[wanted] = read
        replaced = wanted != read
        pairs = zip(wanted[replaced].tolist(), read[replaced].tolist(), strict=True)
        for place, instead in pairs:
            for bad in range(place, place + (instead - place) % len(self)):
                self._count(bad % len(self))

    def _count(self, place: int) -> None:
        if place in self.skipped:
            return
        self.skipped.add(place)
        error = f"data.root: image {int(self.chosen[place])} can not be decoded"
        try:
            self.images[int(self.chosen[place])]
        except Undecodable as named:
            error = str(named)
        if len(self.skipped) > self.allowed:
            raise self._beyond(error)
        said = f"{error.split(';')[0]}; skipped, {len(self.skipped)} of at most {self.allowed}"
        print(said, file=sys.stderr, flush=True)

    def _beyond(self, error: str) -> UserError:
        if not self.allowed:
            return UserError(error)
        return UserError(
            f"data.skip: more than {self.allowed} of {len(self)} images can not be decoded; the"
            f" last one: {error.split(';')[0].removeprefix('data.root: ')}; repair or remove them,"
            f" or allow a larger share than {self.share:g}"
        )


def first_decodable(open_image: Callable[[int], object], n: int, share: float) -> int:
    """The first image that can be decoded. Only the first int(`share` n) + 1 images are tried; if
    none of them can be decoded, the error of the first one is raised.
    """
    if not n:
        raise UserError("data.root: the data set holds no images; name another")
    errors: list[Undecodable] = []
    for index in range(min(n, int(share * n) + 1)):
        try:
            open_image(index)
            return index
        except Undecodable as error:
            errors.append(error)
    raise errors[0]
