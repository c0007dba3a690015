"""Images that can not be decoded: up to a stated share of a split, each is named, counted, and
another one of the split stands in for it.

n = images in the split.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Protocol

from torch import Tensor
from torch.utils.data import Dataset

from core.errors import UserError


class Undecodable(UserError):
    """The bytes of an image were read and are no picture. What could not be read at all is not
    this: it may be readable the next time.
    """


class Images(Protocol):
    """A data set of (uint8 [C, H, W], label, note) that raises `Undecodable`."""

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]: ...


class Noted(Protocol):
    """What takes the notes of images, such as `core.data.notes.Notes`."""

    def add(self, notes: Iterable[int]) -> None: ...

    def judge(self) -> None: ...


class Split(Dataset[tuple[Tensor, int, int, int]]):
    """The chosen images of a data set by their place in the split, as (image, label, place that it
    was read from, note of what was done to it).

    For an image that can not be decoded the next one of the split that can stands in, with its own
    label. Which that is depends on the files alone, so that batch i stays a function of (seed, i),
    whether a split is held or streamed, and after a resume.
    """

    def __init__(self, images: Images, chosen: Tensor, share: float, notes: Noted | None = None):
        self.images, self.chosen, self.share, self.notes = images, chosen, share, notes
        self.allowed = int(share * len(chosen))
        self.skipped: set[int] = set()  # places, as far as this process has met them

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
        """Name and count the images that others stood in for, given the places that were asked for
        and those that were read, and pass on what is to be said of those that were read.

        Called in the process that trains, which sees what every worker met. Raises `UserError`
        beyond the stated share.
        """
        if self.notes:
            self.notes.add(notes.tolist())
        for place, instead in zip(
            wanted[wanted != read].tolist(), read[wanted != read].tolist(), strict=True
        ):
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
        print(
            f"{error.split(';')[0]}; skipped, {len(self.skipped)} of at most {self.allowed}",
            file=sys.stderr,
            flush=True,
        )

    def _beyond(self, error: str) -> UserError:
        if not self.allowed:
            return UserError(error)
        return UserError(
            f"data.skip: more than {self.allowed} of {len(self)} images can not be decoded; the"
            " newest:"
            f" {error.split(';')[0].removeprefix('data.root: ')}; mend or remove them, or allow a"
            f" larger share than {self.share:g}"
        )


def first_decodable(open_image: Callable[[int], object], n: int, share: float) -> int:
    """The index of the first image that can be decoded; raises the first one's error where more
    than that share of n can not.
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
