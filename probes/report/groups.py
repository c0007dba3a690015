"""Groups of runs that differ only in their seed, with mean and standard deviation."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from probes.probe import Numbers, Probe
from probes.report.naming import by_views, data_names, distinct, fingerprint, views_of
from probes.report.schema import Report

# Keys whose values are positions on a curve or reference values. The numbers of several runs have a
# mean only if these values are equal in all runs.
PLACES = ("K", "k", "candidates", "beta", "truth", "best_possible", "ceiling")
# the seed at the end of a folder's name, such as _seed3 of simclr_seed3
SEED = re.compile(r"(?:[-_. ]+(?:seeds?|s)|seeds?)?[-_=. ]*\d*$", re.I)


class Unalike(Exception):
    """Raised if numbers have different structures, so they have no mean."""


@dataclass(frozen=True)
class Group:
    """One line of a comparison: a run, or several seeds of one config."""

    name: str
    data: str
    reports: tuple[Report, ...]

    @property
    def label(self) -> str:
        """The name, with the number of seeds if there are several."""
        count = len(self.reports)
        return self.name if count == 1 else f"{self.name} ({count} seeds)"

    def runs(self, probe: str) -> tuple[Numbers, ...]:
        """The numbers of a probe, for each run that has them."""
        return tuple(report[probe] for report in self.reports if probe in report)


def grouped(
    reports: Sequence[Report], probes: dict[str, Probe], each: bool = False, mixed: bool = False
) -> list[Group]:
    """The lines of a comparison, in the order of the reports; no two have the same name.

    A group holds reports with the same method, config (without the seed), data, views, training
    step (for best.ckpt the step may differ), seed of the probes and options of the probes. `each`:
    every report is its own line. `mixed`: names include the data if the data differ. If views were
    made in different ways, names include the augmentation.
    """
    data = data_names(reports)
    several, other_views = mixed and len(set(data)) > 1, len(by_views(reports)) > 1
    keyed: dict[Any, list[int]] = {}
    for place, report in enumerate(reports):
        key = None if each else _key(report)
        keyed.setdefault(key or place, []).append(place)
    members = [part for found in keyed.values() for part in _seeds(reports, found, probes)]
    members.sort(key=lambda part: part[0])
    named = distinct([_path(reports, part) for part in members], [data[m[0]] for m in members])
    made = []
    for name, part in zip(named, members, strict=True):
        views = views_of(reports[part[0]]) if other_views else ""
        parts = [name, *([data[part[0]]] if several else []), *([f"{views} views"] * bool(views))]
        runs = tuple(reports[place] for place in part)
        made.append(Group(" · ".join(parts), data[part[0]], runs))
    return made


def _key(report: Report) -> str | None:
    """What the reports of a group have in common; None if this report lacks a part of it."""
    identity, config = report.get("identity"), report.get("config_key")
    if not (isinstance(identity, dict) and isinstance(config, str) and config):
        return None
    prints = [fingerprint(report, split) for split in ("train", "test")]
    if type(identity.get("run_seed")) is not int or not all(prints):
        return None
    at = ["best"] if Path(report["checkpoint"]).stem == "best" else [report["step"]]
    facts = [report["method"], config, prints, identity.get("views"), at, report["seed"]]
    return json.dumps(facts, sort_keys=True)


def _seeds(
    reports: Sequence[Report], members: list[int], probes: dict[str, Probe]
) -> list[list[int]]:
    """Split members into groups in which no seed occurs twice. If possible, all members are one
    group. Otherwise, the members of a folder are a group if possible, and else each member alone.
    """
    if _is_group(reports, members, probes):
        return [members]
    folders: dict[Path, list[int]] = {}
    for place in members:
        folders.setdefault(Path(reports[place]["checkpoint"]).parent.parent, []).append(place)
    return [
        part
        for inside in folders.values()
        for part in ([inside] if _is_group(reports, inside, probes) else [[m] for m in inside])
    ]


def _is_group(reports: Sequence[Report], members: list[int], probes: dict[str, Probe]) -> bool:
    if len(members) == 1:
        return True
    held = [reports[place] for place in members]
    if len({report["identity"]["run_seed"] for report in held}) < len(held):
        return False
    try:
        for name in probes:
            having = [report for report in held if name in report]
            if having:
                mean([report[name] for report in having])
                options = [report.get("options", {}) for report in having]
                settings = [o.get(name) if isinstance(o, dict) else None for o in options]
                if any(setting != settings[0] for setting in settings):
                    return False
    except Unalike:
        return False
    return True


def _path(reports: Sequence[Report], members: list[int]) -> str:
    """The path that names a group: that of its checkpoint, or the common part for several seeds."""
    paths = [Path(reports[place]["checkpoint"]) for place in members]
    if len(paths) == 1:
        return str(paths[0])
    common = Path(*commonprefix([path.parent.parts for path in paths]))
    rests = [path.parent.relative_to(common).parts for path in paths]
    firsts = [rest[0] if rest else "" for rest in rests]
    start = SEED.sub("", commonprefix(firsts))
    bare = all(re.fullmatch(r"(seeds?|s|run)?[-_=. ]*\d*", first, re.I) for first in firsts)
    if not start and not bare:
        start = reports[members[0]]["method"].split(".")[-1].lower()
    stem = paths[0].stem if len({path.stem for path in paths}) == 1 else "last"
    return str(common / ("" if bare else start) / f"{stem}.ckpt")


def mean(runs: Sequence[Any], key: str = "") -> Any:
    """The mean of nested numbers over runs. An interval ("low", "high" beside "value" or "bound")
    becomes mean ± standard deviation over the runs, and "seeds" counts them; the interval of a
    single run is kept.

    Different texts are counted. Raises `Unalike` for numbers of different structure.
    """
    first = runs[0]
    if len(runs) == 1:
        return first
    if all(isinstance(run, dict) for run in runs):
        common = [name for name in first if all(name in run for run in runs)]
        made = {name: mean([run[name] for run in runs], name) for name in common}
        for centre in ("value", "bound"):
            if {centre, "low", "high"} <= made.keys():
                spread = stdev([run[centre] for run in runs])
                made |= {"low": made[centre] - spread, "high": made[centre] + spread}
                made["seeds"] = len(runs)
        return made
    if all(isinstance(run, list) for run in runs):
        if any(len(run) != len(first) for run in runs):
            raise Unalike
        return [mean(parts, key) for parts in zip(*runs, strict=True)]
    if all(type(run) in (int, float) for run in runs):
        if key in PLACES and any(abs(run - first) > 1e-9 * abs(first) for run in runs):
            raise Unalike
        return first if all(run == first for run in runs) else fmean(runs)
    if all(isinstance(run, str) for run in runs):
        return counted(runs)
    if any(run != first for run in runs):
        raise Unalike
    return first


def counted(texts: Sequence[str]) -> str:
    """The common text, or how often each occurs: "2 converged, 1 critic-limited"."""
    found = Counter(texts)
    if len(found) == 1:
        return texts[0]
    return ", ".join(f"{count} {text}" for text, count in found.most_common())
