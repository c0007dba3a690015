"""The class of all probes: what a probe needs, what it measures, and how results are shown."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from core.frozen import Frozen

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = dict[str, Any]  # the part of a report under a probe's name, as JSON


class Found(NamedTuple):
    """The numbers of a probe for the report, and arrays that only its figures need."""

    numbers: Numbers
    arrays: dict[str, Any] = {}


class Value(NamedTuple):
    """The number of a cell of the table, with its 95% interval if it has one. If `value` is None,
    `low` and `high` are bounds on an unknown number.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    digits: int = 2


class Entry(NamedTuple):
    """One checkpoint, or several seeds of one config, in a figure that compares entries.

    For several seeds, `numbers` are the means, and their intervals are mean ± standard deviation
    over seeds.
    """

    label: str
    colour: str
    marker: str
    numbers: Numbers
    runs: tuple[Numbers, ...] = ()  # the numbers of each seed
    place: int = 0  # its position in the panel
    data: str = ""
    other: dict[str, Numbers] = {}  # the numbers of its other probes


class Bound(NamedTuple):
    """A bound on the information of one checkpoint, with its 95% interval, in nats."""

    quantity: str  # the information that it bounds, such as "I(V1; V2)"
    side: str  # "lower" or "upper"
    name: str  # in a word: "InfoNCE", "rate R"
    value: float
    low: float
    high: float
    verdict: str = ""  # what limits it
    truth: float | None = None  # the known value of the quantity
    views: str = ""  # how the views were made; only bounds with equal `views` bound one quantity
    ceiling: float | None = None  # the most that this bound can show


class Chart(NamedTuple):
    """An interactive figure of several checkpoints: a Vega-Lite specification and texts.

    `spec` has no size, colours or signals of its own; `probes.report.page` adds them. A row of
    the specification's data that belongs to a checkpoint has the field "run": the `place` of that
    checkpoint's `Entry`.
    """

    title: str
    about: str  # how to read it, in a sentence or two
    spec: dict[str, Any]
    choices: tuple[str, ...] = ()  # values of the parameter "choice"; the first one is shown
    choice: str = ""  # what is chosen, in a word
    square: bool = False  # as wide as high
    lines: tuple[tuple[str, str], ...] = ()  # (dashes, meaning) of lines, for the key


class Probe:
    """A measurement of a frozen encoder. A subclass is one file and one line of `probes.registry`.

    `measure` calls a function of arrays, which can also be used alone. The other methods say how
    its numbers are shown. `measure` raises `core.errors.Unmeasurable` if this number can not be
    measured for this encoder and these data.
    """

    name: ClassVar[str]  # the key of its part of the report
    summary: ClassVar[str]  # one line for --help and the table of probes
    on_request: ClassVar[bool] = False  # measured only if it is named
    options: ClassVar[dict[str, int]] = {}  # key -> default, set as NAME.KEY=VALUE
    schema: ClassVar[str] = ""  # the keys of its numbers, with units
    columns: ClassVar[tuple[str, ...]] = ()  # in the table of checkpoints
    claims: ClassVar[tuple[str, ...]] = ()  # what each of `columns` may claim
    across: ClassVar[str] = ""  # the x axis of `curves`
    panel: ClassVar[str] = ""  # the title of its panel in a comparison; empty = no panel
    charted: ClassVar[tuple[str, ...]] = ()  # names of its `figures` that `charts` replace

    def requires(self, frozen: Frozen) -> str:
        """Why this encoder can not be measured with these data, or ""."""
        return ""

    def measure(self, frozen: Frozen, **options: int) -> Found:
        """The numbers, all finite; raises `Unmeasurable` if they can not be computed."""
        raise NotImplementedError

    def cells(self, numbers: Numbers) -> list[str]:
        """A text for each of `columns`."""
        return []

    def values(self, numbers: Numbers) -> list[Value | str]:
        """The number of each cell, for means over seeds and for CSV files; a text if a cell is not
        a number. By default, these are the numbers that the cells show.
        """
        return [_read(cell) for cell in self.cells(numbers)]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        """The numbers for a log, by name."""
        return {}

    def curves(self, numbers: Numbers) -> dict[str, list[tuple[float, float]]]:
        """Curves for a log, drawn in one plot: name -> points (x, y). `across` names x."""
        return {}

    def sentences(self, numbers: Numbers) -> list[str]:
        """The numbers in plain sentences, with units, sides and intervals."""
        return []

    def plain(self, numbers: Numbers) -> list[str]:
        """What the numbers mean, in sentences for people who do not know the terms."""
        return self.sentences(numbers)

    def bounds(self, numbers: Numbers) -> list[Bound]:
        """Its bounds on information, for a figure of all families of methods."""
        return []

    def charts(self, entries: list[Entry]) -> list[Chart]:
        """Interactive figures of a report page. By default the page draws `curves`."""
        return []

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        """Pictures of one checkpoint, by name; each is written into `folder`."""
        return {}

    def draw(self, axes: "Axes", entries: list[Entry]) -> None:
        """Draw its panel in a comparison of checkpoints."""


def without_labels(frozen: Frozen) -> str:
    """Why a probe of labels can not be measured, or ""."""
    return "" if frozen.source("test").factors else "the images have no labels"


def _read(cell: str) -> Value | str:
    """A cell as a number if it is one, else as a text."""
    plain = cell.replace(",", "")
    if not re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?", plain):
        return cell
    return Value(float(plain), digits=len(plain.partition(".")[2]))
