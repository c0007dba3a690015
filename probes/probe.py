"""What a probe is: one file that says what it needs, what it measures and how that is shown."""

import re
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from matplotlib.axes import Axes

from core.frozen import Frozen

Numbers = dict[str, Any]  # what a report holds under a probe's name, as JSON


class Found(NamedTuple):
    """What a probe has measured, and arrays that its figures show but no report holds."""

    numbers: Numbers
    arrays: dict[str, Any] = {}


class Value(NamedTuple):
    """The number of one cell of the table, with its 95% interval where it has one. Without a
    `value`, `low` and `high` are two bounds on a number that is not known.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    digits: int = 2


class Entry(NamedTuple):
    """One checkpoint in a figure of several, or several seeds of one config: its name, its colour
    and marker, and the numbers. Of several seeds `numbers` are the mean, and an interval in them is
    the mean minus and plus the standard deviation over seeds.
    """

    label: str
    colour: str
    marker: str
    numbers: Numbers
    runs: tuple[Numbers, ...] = ()  # the numbers of each seed
    place: int = 0  # among the entries of its panel
    data: str = ""


class Probe:
    """A measurement of a frozen encoder. A subclass is one file and one line of `probes.registry`.

    The heart of a probe is a function of arrays, which `measure` calls; everything else says how
    its numbers are shown. `measure` raises `core.errors.Unmeasurable` where this encoder, with
    these data, has no such number.
    """

    name: ClassVar[str]  # of its part of the report
    summary: ClassVar[str]  # one line for --help and the table of probes
    on_request: ClassVar[bool] = False  # measured only where it is asked for by name
    options: ClassVar[dict[str, int]] = {}  # key -> default, set as NAME.KEY=VALUE
    schema: ClassVar[str] = ""  # the keys of its numbers, with units
    columns: ClassVar[tuple[str, ...]] = ()  # of the table of checkpoints
    panel: ClassVar[str] = ""  # title of its panel where checkpoints are compared; empty = none

    def requires(self, frozen: Frozen) -> str:
        """Why this encoder, with these data, can not be measured; empty where it can."""
        return ""

    def measure(self, frozen: Frozen, **options: int) -> Found:
        """The numbers. Finite ones only; a probe that has none raises `Unmeasurable`."""
        raise NotImplementedError

    def cells(self, numbers: Numbers) -> list[str]:
        """A text for each of `columns`."""
        return []

    def values(self, numbers: Numbers) -> list[Value | str]:
        """The number behind each of `cells`, for means over seeds and for files of numbers; a text
        for a cell that is none. Unless a probe says more, the numbers as its cells show them.
        """
        return [_read(cell) for cell in self.cells(numbers)]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        """The numbers that a log keeps, by name."""
        return {}

    def sentences(self, numbers: Numbers) -> list[str]:
        """The numbers in plain sentences, with units, sides and intervals."""
        return []

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        """Pictures of one checkpoint, by name; each is written into `folder`."""
        return {}

    def draw(self, axes: Axes, entries: list[Entry]) -> None:
        """Its panel in a comparison of checkpoints."""


def _read(cell: str) -> Value | str:
    """A cell as a number, if it is one."""
    plain = cell.replace(",", "")
    if not re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?", plain):
        return cell
    return Value(float(plain), digits=len(plain.partition(".")[2]))
