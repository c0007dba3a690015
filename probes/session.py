"""Probing checkpoints: from the options of the command to reports, pictures and a log."""

import argparse
import hashlib
import json
import time
import traceback
from pathlib import Path

import torch
from rich.console import Console

from core.console import plain_console
from core.errors import Unmeasurable, UserError, nearest
from core.frozen import Frozen
from core.run import config, logger
from core.run.folder import make_folder
from core.run.progress import duration
from core.run.resumable import RESUMABLE_KEYS
from probes import own
from probes.origins import opened
from probes.probe import Found, Probe
from probes.registry import PROBES
from probes.report import store, table
from probes.report.schema import FORMAT, KEYS, Report, not_finite
from probes.report.table import Probes
from probes.views.duplicates import said_of_leaks


def load_probes(names: list[str]) -> Probes:
    """The probes of these names, by their keys in a report. A name may be `package.module.Class` of
    a user's own package. Its code is imported, so only the user may give such a name.
    """
    found: Probes = {}
    for name in names:
        kind = own.locate(name)
        if type(found.get(kind.name, kind())) is not kind:
            raise UserError(f"--probes: two probes have the name '{kind.name}'; rename one of them")
        found[kind.name] = kind()
    return found


def probe_all(options: argparse.Namespace) -> list[Report]:
    """Probe every named checkpoint, print one table, and return the reports."""
    console = plain_console()
    probes = load_probes(options.probes)
    settings = _checked(options.settings, probes, options.probes)
    device = usable_device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    shown = load_probes([*PROBES, *options.probes])
    reports, failures = [], []
    began = started = time.monotonic()
    count = max(1, len(options.targets))
    for number, origin in enumerate(opened(options, device), 1):
        session = Session(origin.path, origin.frozen, console)
        for remark in filter(None, [*origin.remarks, said_of_leaks(origin.frozen)]):
            console.print(f"{origin.path}: {remark}")
        report = session.run(probes, settings, options.again)
        if origin.checkpoint:
            session.log(shown)
        console.print("\n".join(table.sentences(report, shown)))
        console.print(f"  {session.folder} · {time.monotonic() - started:.0f} s\n")
        started = time.monotonic()
        if number < count:
            left = (started - began) / number * (count - number)
            console.print(f"checkpoint {number} of {count} · about {duration(left)} left\n")
        reports.append(report)
        failures += [f"{session.path}: {failure}" for failure in session.failures]
    plain_console(150).print(table.table(reports, shown))
    if failures:
        raise UserError(f"{'; '.join(failures)} (tracebacks above; all other numbers are saved)")
    return reports


class Session:
    """Probing one checkpoint: the report is saved after every probe."""

    def __init__(self, path: Path, frozen: Frozen, console: Console):
        self.path, self.frozen, self.console = path, frozen, console
        self.measured: set[str] = set()  # probes that this session has measured
        self.pictures: dict[str, Path] = {}
        self.place = ""  # which probe is being measured, such as "probe 3 of 12"
        self.failures: list[str] = []  # the user's own probes that raised an error, and the error
        run = frozen.run
        self.report: Report = {
            "format": FORMAT,
            "checkpoint": str(path.resolve()),
            "digest": frozen.weights,
            "method": run.method,
            "step": frozen.step,
            "data": run.data.name,
            "seed": frozen.seed,
            "config_key": config_key(run),
            "identity": frozen.identity,
            "options": {},
            "code": {},
            "absent": {},
            "pictures": {},
        }
        self.folder = store.place(path, frozen.identity, run.data.name)

    def run(self, probes: Probes, settings: dict[str, dict[str, int]], again: bool) -> Report:
        """Measure what is missing, or everything if `again`, and return the report."""
        remedy = "copy the checkpoint to a folder of your own, or use --out for a foreign encoder"
        make_folder(self.folder, "probe", remedy)
        held = self._take_over()
        for number, (name, probe) in enumerate(probes.items(), 1):
            self.place = f"probe {number} of {len(probes)}"
            asked = probe.options | settings.get(name, {})
            before = name in held and held["options"].get(name) == asked
            before = before and own.fits(probe, held[name])
            before = before and held.get("code", {}).get(name, "") == own.code(probe)
            if before and not again:
                self._say(f"{name} was measured before (--again repeats it)")
                continue
            try:
                self._complete(name, probe, asked)
            except Exception as error:
                if not own.is_own(probe) or isinstance(error, UserError | OSError):
                    raise
                self._failed(name, error)
        return self.report

    def _complete(self, name: str, probe: Probe, options: dict[str, int]) -> None:
        """Measure a probe, draw its pictures, and save the report after both."""
        self.measured.add(name)
        started, encoded = time.monotonic(), self.frozen.encoded
        found = self._measure(name, probe, options)
        self._save()
        if found is None:
            return
        made = own.checked_pictures(probe.figures(found, self.frozen, self.folder))
        self.pictures |= made
        self.report["pictures"][name] = sorted(file.name for file in made.values())
        # The options are stored last, after the pictures. A probe whose options are not in
        # the report is measured again.
        self.report["options"][name] = options
        if code := own.code(probe):
            self.report["code"][name] = code
        self._save()
        seconds, encoded = time.monotonic() - started, self.frozen.encoded - encoded
        self._say(f"{name.replace('_', ' ')}: {seconds:.1f} s, {encoded:,} images encoded")

    def _save(self) -> None:
        """Write the report. Numbers that another call has saved meanwhile stay."""
        with store.locked(self.folder):
            self._take_over()
            store.save(self.report, self.folder / "probe.json")

    def _take_over(self) -> Report:
        """Put the numbers of other calls into the report, and return the report that holds them."""
        held = store.earlier(self.folder / "probe.json", self.report)
        for name in held.keys() - KEYS - self.measured:
            self.report[name] = held[name]
            self.report["options"].pop(name, None)
            if name in held["options"]:
                self.report["options"][name] = held["options"][name]
            for part in ("pictures", "code"):
                if name in held.get(part, {}):
                    self.report[part][name] = held[part][name]
        return held

    def _failed(self, name: str, error: Exception) -> None:
        """Note that a probe of the user's own raised an error. The other probes continue."""
        traceback.print_exception(error)
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        self.failures.append(f"the probe {name} raised {said}")
        if name not in self.report:  # else it has numbers, but no pictures
            self.report["absent"][name] = f"it raised {said}"
            self._save()

    def log(self, probes: Probes) -> None:
        """Log to the W&B run that trained the checkpoint: a table, headline numbers in the summary,
        pictures, and an artifact of report and pictures. For each probe with curves, one plot and
        one table of points are logged, too. All names contain the name of the data.
        """
        frozen, step = self.frozen, self.report["step"]
        # what is known of the run that trained the checkpoint; it is not read from the checkpoint
        # again, because that file may hold another run by now
        known = (frozen.trained, self.path.parent, frozen.wandb_id, frozen.entity)
        made = logger.attach(frozen.run, *known)
        (name,) = table.names([self.report])
        of = f"probe/{made.data}"
        made.table(of, list(table.head(probes)), [table.row(self.report, name, probes)])
        numbers = table.numbers(self.report, probes)
        made.summary(
            {f"{of}/{key}": value for key, value in numbers.items()} | {f"{of}/step": step}
        )
        for key in (key for key in probes if key in self.report):
            probe = probes[key]
            curves = probe.curves(self.report[key])
            if rows := [[name, *point] for name, points in curves.items() for point in points]:
                made.table(f"{of}/{key}/points", ["curve", probe.across, "value"], rows)
                made.lines(f"{of}/{key}", probe.across, curves)
        made.pictures({f"{of}/{key}": file for key, file in self.pictures.items()}, step)
        files = [self.folder / "probe.json", *self.pictures.values()]
        made.artifact(f"{self.path.resolve().parent.name}-{of.replace('/', '-')}", "report", files)
        made.close()

    def _measure(self, name: str, probe: Probe, options: dict[str, int]) -> Found | None:
        """Put one probe's numbers, or the reason why there are none, into the report."""
        self.report.pop(name, None)
        self.report["options"].pop(name, None)
        self.report["absent"].pop(name, None)
        why = probe.requires(self.frozen)
        if not why:
            self._say(f"{name.replace('_', ' ')} … ({self.place})")
            try:
                found = own.checked_found(probe.measure(self.frozen, **options))
                if bad := not_finite(found.numbers):
                    raise Unmeasurable(f"its number {bad} is not finite")
                if own.is_own(probe):
                    store.check(probe, found.numbers)
            except Unmeasurable as error:
                why = str(error)
        if why:
            self.report["absent"][name] = why
            self._say(f"no {name.replace('_', ' ')}: {why}")
            return None
        self.report[name] = found.numbers
        return found

    def _say(self, line: str) -> None:
        self.console.print(f"{self.path}: {line}", style="dim")


def _checked(
    settings: dict[str, dict[str, int]], probes: Probes, typed: list[str]
) -> dict[str, dict[str, int]]:
    """The options by the keys of probes in a report. The user may have typed that key or the
    probe's full name. `UserError` for an unknown option.
    """
    keys = {name: own.locate(name).name for name in typed}
    checked: dict[str, dict[str, int]] = {}
    for word, given in settings.items():
        name = keys.get(word, word)
        if name not in probes:
            raise UserError(f"'{word}': this call measures no such probe{nearest(word, probes)}")
        options = probes[name].options
        for key, value in given.items():
            if key not in options:
                reason = nearest(key, options)
                raise UserError(f"{word}.{key}: the probe has no such option{reason}")
            if value < 1:
                raise UserError(f"{word}.{key}: must be 1 or more, got {value}")
        checked[name] = checked.get(name, {}) | given
    return checked


def config_key(run: config.RunConfig) -> str:
    """SHA-256 in hex of a config without its seed, its folder and the keys that may change when a
    run is resumed: it is the same for all seeds of one config.
    """
    values = config.to_dict(run)
    for key in ("seed", "folder", *RESUMABLE_KEYS):
        section, _, name = key.rpartition(".")
        (values[section] if section else values).pop(name, None)
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def usable_device(name: str) -> torch.device:
    """The device of that name; `UserError` if this machine has none."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device: '{name}' can not be used here ({reason})") from None
    return torch.device(name)
