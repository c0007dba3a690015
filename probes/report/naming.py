"""Names of checkpoints and data sets in a comparison; no two are the same."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import legible
from probes.report.schema import Report

LONGEST = 60  # characters of a name; a longer one is cut in the middle
# file names that need the name of their folder
GENERIC = re.compile(r"best|last-\d+|epoch-\d+")


def names(reports: Sequence[Report]) -> list[str]:
    """A name for each checkpoint: the shortest end of its path that no other checkpoint has. If a
    checkpoint has several reports, the data and, if necessary, a number are added to their names.
    """
    data = [report.get("data", "") for report in reports]
    return distinct([report["checkpoint"] for report in reports], data)


def distinct(checkpoints: Sequence[str], data: Sequence[str]) -> list[str]:
    """A different name for each path of a checkpoint."""
    parts = [_parts(Path(path)) for path in checkpoints]
    deepest = max(map(len, parts), default=0)
    # how many different checkpoints end in the same way
    ends = [Counter(part[-length:] for part in set(parts)) for length in range(1, deepest + 1)]
    found = []
    for part in parts:
        length = min(len(part), 2 if GENERIC.fullmatch(part[-1]) else 1)
        while length < len(part) and ends[length - 1][part[-length:]] > 1:
            length += 1
        found.append(legible(str(Path(*part[-length:])), LONGEST))
    return _numbered(_with_data(found, data))


def _parts(path: Path) -> tuple[str, ...]:
    """The parts of a path that can name a checkpoint; last.ckpt has the name of its folder."""
    folders = path.parent.parts
    named = folders != (path.anchor,) and bool(folders)
    return folders if path.stem == "last" and named else (*folders, path.stem or "checkpoint")


def _with_data(found: list[str], data: Sequence[str]) -> list[str]:
    """Add the data to names that several reports share, if their data differ."""
    shared = Counter(found)
    held = Counter(set(zip(found, data, strict=True)))
    kinds = Counter(name for name, _ in held)
    return [
        f"{name} on {legible(on, LONGEST)}" if shared[name] > 1 and kinds[name] > 1 else name
        for name, on in zip(found, data, strict=True)
    ]


def _numbered(found: list[str]) -> list[str]:
    """Add a number to the second and later ones of equal names."""
    taken: set[str] = set()
    made = []
    for name in found:
        others = (f"{name} #{number}" for number in itertools.count(2))
        made.append(next(tried for tried in itertools.chain([name], others) if tried not in taken))
        taken.add(made[-1])
    return made


def fingerprint(report: Report, split: str = "test") -> str:
    """The fingerprint of a report's split, or "". Splits that are drawn from the same population
    have the same fingerprint for all seeds.
    """
    found: Any = report.get("identity")
    for key in ("data", split):
        found = found.get(key) if isinstance(found, dict) else None
    if isinstance(found, dict):
        found = found.get("population", found.get("fingerprint"))
    return found if isinstance(found, str) else ""


def data_names(reports: Sequence[Report]) -> list[str]:
    """The name of each report's data, with the start of the test split's fingerprint if data of the
    same name differ.
    """
    prints = [(report["data"], fingerprint(report)) for report in reports]
    kinds = Counter(name for name, _ in set(prints))
    return [
        legible(name if kinds[name] == 1 else f"{name} {code[:8] or 'unknown'}", LONGEST)
        for name, code in prints
    ]


def views_of(report: Report) -> str:
    """The augmentation of the views in a report's bounds on I(V1; V2), in a word; empty if the
    report has no such bound.
    """
    held: Any = report.get("information")
    word = held.get("augmentation") if isinstance(held, dict) else None
    return legible(word, LONGEST) if isinstance(word, str) else ""


def by_views(reports: Sequence[Report]) -> dict[str, list[str]]:
    """The augmentation of the views -> the names of the reports on such views."""
    found: dict[str, list[str]] = {}
    for report, name in zip(reports, names(reports), strict=True):
        if views := views_of(report):
            found.setdefault(views, []).append(name)
    return found
