"""What the page says: checkpoints, sentences, comparisons, the table, commands."""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.errors import legible
from core.trust import full_name, option_for
from probes.probe import Bound, Chart, Entry, Probe, Value
from probes.registry import PROBES
from probes.report.comparison import file_of
from probes.report.figures import COLOURS, MARKERS
from probes.report.groups import Group, Unalike, mean
from probes.report.page import lead, vega
from probes.report.schema import KEYS, Report
from probes.report.store import MALFORMED, damaged
from probes.report.table import LONGEST, Probes, headings, share_of, spread
from probes.report.tabular import columns

MOST_CONFIG = 2**16  # bytes of a config that the page shows
# versions of `figures.COLOURS` that are bright enough for a dark page
BRIGHT: tuple[str, ...] = ("#4ba3dc", "#f0803c", "#2fc79b", "#e0a3c6", "#f0b632", "#8ccdf2")
BRIGHT += ("#a9a9a9", "#9d8cf0", "#d66aa8", "#cdcd6a")
NO_NUMBER = "–"
BESIDE = ("compression",)  # probes whose numbers are also shown in the figures of other probes
SHORT = 8  # keys of a config that a short text names


@dataclass(frozen=True)
class Cell:
    """A cell of the table: its text, the interval below it, and the number that sorts it."""

    text: str
    more: str = ""
    number: float | None = None


def look(place: int) -> dict[str, str]:
    """The colour of a checkpoint (a variable of the style sheet), and its shape."""
    return {"colour": vega.colour(place), "shape": vega.SHAPES[place % len(vega.SHAPES)]}


def entries(groups: Sequence[Group], probe: str, beside: Sequence[str] = ()) -> list[Entry]:
    """The checkpoints that have numbers of a probe; the place of an entry is that of its group.
    `beside`: other probes whose numbers an entry also holds.
    """
    return [
        Entry(
            group.label,
            COLOURS[place % len(COLOURS)],
            MARKERS[place % len(MARKERS)],
            mean(runs),
            runs,
            place,
            group.data,
            {key: mean(group.runs(key)) for key in beside if group.runs(key)},
        )
        for place, group in enumerate(groups)
        if (runs := group.runs(probe))
    ]


def charts(groups: Sequence[Group], probes: Probes) -> list[tuple[str, Chart]]:
    """(key of a probe, figure) for every probe: its own figures, or its curves as lines."""
    found = []
    beside = [key for key in BESIDE if key in probes]
    for key, probe in probes.items():
        held = entries(groups, key, beside)
        if held:
            made = tried(key, groups, lambda p=probe, h=held: p.charts(h) or _curves(p, h))
            found += [(key, chart) for chart in made]
    return found


def bounds(groups: Sequence[Group], probes: Probes) -> list[tuple[Entry, list[Bound]]]:
    """The bounds of each checkpoint on any information, from all probes."""
    found: dict[int, tuple[Entry, list[Bound]]] = {}
    for key, probe in probes.items():
        for entry in entries(groups, key):
            held = tried(key, groups, lambda p=probe, e=entry: p.bounds(e.numbers))
            if held:
                found.setdefault(entry.place, (entry, []))[1].extend(held)
    return [found[place] for place in sorted(found)]


def tried(key: str, groups: Sequence[Group], made: Any) -> Any:
    """The result, or a `UserError` that names a report whose numbers can not be drawn."""
    try:
        return made()
    except (*MALFORMED, Unalike) as error:
        report = next(r for group in groups for r in group.reports if key in r)
        raise damaged(file_of(report), key, error) from None


def _curves(probe: Probe, held: list[Entry]) -> list[Chart]:
    rows = [
        vega.row(entry, curve=legible(name, LONGEST), x=x, value=y)
        for entry in held
        for name, points in probe.curves(entry.numbers).items()
        for x, y in points
    ]
    if not rows:
        return []
    name = sentence(probe.panel or probe.name.replace("_", " "))[:-1]
    return [Chart(name, sentence(probe.summary), vega.lines(rows, probe.across, ""))]


def sentences(group: Group, probes: Probes) -> list[str]:
    """A checkpoint in plain sentences, with means over several seeds."""
    lines = []
    for key, probe in probes.items():
        if runs := group.runs(key):
            numbers = mean(runs)
            lines += tried(key, [group], lambda p=probe, n=numbers: p.plain(n))
    lines += lead.of_limits(group)
    return [sentence(legible(line, 1000)) for line in lines]


def sentence(line: str) -> str:
    """A line with a capital letter and a full stop."""
    first = line.split(" ", 1)[0]
    line = line[:1].upper() + line[1:] if first.isalpha() and first.islower() else line
    return line if line.endswith((".", "!", "?")) else f"{line}."


def absent(group: Group) -> list[tuple[str, str]]:
    """(probe, reason) of what could not be measured."""
    return [
        (legible(str(key), 40), legible(str(why), 300))
        for key, why in group.reports[0]["absent"].items()
    ]


def cells(group: Group, probes: Probes) -> list[Cell]:
    """The cells of a checkpoint's row, one for each column of the probes."""
    made = ((_cell(found), len(found)) for _, found in columns(group, probes))
    return [replace(cell, text=f"{cell.text}{share_of(group, count)}") for cell, count in made]


def _cell(found: Sequence[Value | str]) -> Cell:
    if not found:
        return Cell(NO_NUMBER)
    if len(found) > 1:
        values = [value.value for value in found if isinstance(value, Value)]
        known = [value for value in values if value is not None]
        middle = sum(known) / len(known) if known and len(known) == len(found) else None
        return Cell(legible(spread(found), LONGEST), number=middle)
    (value,) = found
    if isinstance(value, str):
        return Cell(legible(value, LONGEST))
    ends = [f"{end:,.{value.digits}f}" for end in (value.low, value.high) if end is not None]
    if value.value is None:
        return Cell(_minus(" … ".join(ends)) or NO_NUMBER, number=value.low)
    text = _minus(f"{value.value:,.{value.digits}f}")
    return Cell(text, _minus(" … ".join(ends)), value.value)


def _minus(text: str) -> str:
    """Numbers with a minus sign that is as wide as a digit."""
    return text.replace("-", "−")


def claims(probes: Probes) -> list[tuple[str, str]]:
    """(heading, what the column may claim) of each column."""
    said = [
        probe.claims[number] if number < len(probe.claims) else probe.summary
        for probe in probes.values()
        for number in range(len(probe.columns))
    ]
    return [(name, claim) for (_, name), claim in zip(headings(probes), said, strict=True)]


def commands(report: Report, probes: Probes, front: str = "twobounds") -> list[str]:
    """The commands that train and measure a checkpoint, as far as its report and its run folder
    tell. `probes` gives the full names of a user's own probes.
    """
    checkpoint, lines = Path(report["checkpoint"]), []
    run = checkpoint.parent
    if (run / "config.yaml").is_file():
        lines.append(f"{front} pretrain {shlex.quote(str(run / 'config.yaml'))}")
    measured = [
        key if key in PROBES else full_name(probes[key])
        for key in report
        if key not in KEYS and (key in probes or key in PROBES)
    ]
    trusted = option_for(report["method"], report["data"]).split()
    words = [str(checkpoint), *trusted, *(["--probes", ",".join(measured)] if measured else [])]
    words += ["--seed", str(report["seed"])] if report["seed"] else []
    for key, options in report["options"].items():
        if isinstance(options, dict) and (key in probes or key in PROBES):
            words += [f"{key}.{name}={value}" for name, value in options.items()]
    lines.append(f"{front} probe {shlex.join(words)}")
    return [legible(line, 2000) for line in lines]


def config_text(report: Report) -> str:
    """The config.yaml of a checkpoint's run folder as a text, or ""."""
    path = Path(report["checkpoint"]).parent / "config.yaml"
    if not os.path.isfile(path):  # a pipe would block
        return ""
    try:
        with open(path, "rb") as file:
            held = file.read(MOST_CONFIG + 1)
    except OSError:
        return ""
    if len(held) > MOST_CONFIG:
        return ""
    text = held.decode("utf-8", "replace")
    return "\n".join(legible(line, LONGEST) for line in text.splitlines())


def price(report: Report) -> str:
    """The beta of a VAE's config as a text, or ""."""
    found = _flat(config_text(report)).get("model.rate.beta", "")
    return found if re.fullmatch(r"[0-9.e+-]{1,12}", found) else ""


def seen(report: Report) -> int | None:
    """The images that training has seen, step times batch size, or None if it is not known."""
    size = _flat(config_text(report)).get("optim.batch_size", "")
    step = report["step"]
    if not re.fullmatch(r"[0-9]{1,7}", size) or not 0 <= step < 10**12:
        return None
    return int(step) * int(size)


def differences(texts: Sequence[str]) -> list[str]:
    """For each config, a line with the keys that differ between the configs, and their values."""
    flat = [_flat(text) for text in texts]
    keys = list(dict.fromkeys(key for held in flat for key in held))
    differ = [key for key in keys if len({held.get(key) for held in flat}) > 1]
    hidden = ("folder", "wandb.", "method", "resume")
    found = []
    for held in flat:
        said = [
            f"{key} {held[key]}"
            for key in differ
            if held.get(key) not in (None, "null", "''") and not key.startswith(hidden)
        ]
        more = [f"{len(said) - SHORT} more"] if len(said) > SHORT else []
        found.append(", ".join([*said[:SHORT], *more]))
    return found


def _flat(text: str) -> dict[str, str]:
    """Keys and values of a config's text: `a.b` -> value, by indentation alone, so that no YAML of
    a stranger is interpreted.
    """
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        depth = len(key) - len(key.lstrip())
        if not colon or key.lstrip().startswith(("#", "-")):
            continue
        while above and above[-1][0] >= depth:
            above.pop()
        name = ".".join([*(part for _, part in above), key.strip()])
        if value.strip():
            found[name] = value.strip()
        else:
            above.append((depth, key.strip()))
    return found
