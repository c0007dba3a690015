"""Probing checkpoints: from the options of the command to reports, pictures and a log."""

import argparse
import hashlib
import importlib
import json
import time
from pathlib import Path

import torch
from rich.console import Console

from core.console import plain_console
from core.errors import Unmeasurable, UserError, nearest
from core.frozen import Frozen
from core.run import config, logger
from core.run.folder import RunFolder, make_folder
from core.run.resumable import RESUMABLE_KEYS
from probes.probe import Found, Probe
from probes.registry import PROBES
from probes.report import store, table
from probes.report.schema import FORMAT, Report, not_finite
from probes.report.table import Probes


def load_probes(names: list[str]) -> Probes:
    """The probes of these names, by their keys in a report. A name may be `package.module.Class` of
    a user's own package. Its code is imported, so only the user may give such a name.
    """
    found: Probes = {}
    for name in names:
        module, _, kind = PROBES.get(name, name).rpartition(".")
        try:
            made = getattr(importlib.import_module(module), kind)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            said = f"there is no module {module}{nearest(name, PROBES)}"
            raise UserError(f"--probes: {said}") from None
        except AttributeError:
            raise UserError(f"--probes: {module} holds no {kind}") from None
        if not (isinstance(made, type) and issubclass(made, Probe)):
            raise UserError(f"--probes: {name} is not a subclass of probes.probe.Probe")
        found[made.name] = made()
    return found


def probe_all(options: argparse.Namespace) -> None:
    """Probe every named checkpoint, then print one table."""
    console = plain_console()
    probes = load_probes(options.probes)
    settings = _checked(options.settings)
    device = usable_device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    shown = load_probes([*PROBES, *options.probes])
    reports = []
    for path in [find(Path(target), options.best) for target in options.targets]:
        started = time.monotonic()
        trusted = tuple(options.trust)
        chosen = {"seed": options.seed, "device": device, "quiet": False}
        frozen = Frozen.load(path, options.overrides, trusted, **chosen)
        session = Session(path, frozen, console, trusted)
        report = session.run(probes, settings, options.again)
        session.log(shown)
        console.print("\n".join(table.sentences(report, shown)))
        console.print(f"  {session.folder} · {time.monotonic() - started:.0f} s\n")
        reports.append(report)
    plain_console(150).print(table.table(reports, shown))


class Session:
    """Probing one checkpoint: the report is saved after every probe."""

    def __init__(self, path: Path, frozen: Frozen, console: Console, trusted: tuple[str, ...] = ()):
        self.path, self.frozen, self.console = path, frozen, console
        self.trusted = trusted
        self.pictures: dict[str, Path] = {}
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
            "absent": {},
        }
        self.folder = store.place(path, frozen.identity, run.data.name)

    def run(self, probes: Probes, settings: dict[str, dict[str, int]], again: bool) -> Report:
        """Measure what is missing, or everything if `again`, and return the report."""
        make_folder(self.folder, "probe", "copy the checkpoint to a folder of your own")
        held = store.earlier(self.folder / "probe.json", self.report)
        self.report |= {key: value for key, value in held.items() if key not in self.report}
        self.report["options"] |= held.get("options", {})
        for name, probe in probes.items():
            asked = probe.options | settings.get(name, {})
            before = name in held and held["options"].get(name) == asked
            if before and not again:
                self._say(f"{name} was measured before (--again repeats it)")
                continue
            found = self._measure(name, probe, asked)
            store.save(self.report, self.folder / "probe.json")
            if found is None:
                continue
            self.pictures |= probe.figures(found, self.frozen, self.folder)
            # the probe is done now; without its options in the report it would be measured again
            self.report["options"][name] = asked
            store.save(self.report, self.folder / "probe.json")
        return self.report

    def log(self, probes: Probes) -> None:
        """Log table, headline numbers and pictures to the W&B run that trained the checkpoint."""
        made, step = logger.attach(self.path, self.trusted), self.report["step"]
        (name,) = table.names([self.report])
        made.table("probe", list(table.head(probes)), [table.row(self.report, name, probes)])
        numbers = table.numbers(self.report, probes)
        made.metrics({f"probe/{key}": value for key, value in numbers.items()}, step)
        made.pictures({f"probe/{key}": file for key, file in self.pictures.items()}, step)
        made.close()

    def _measure(self, name: str, probe: Probe, options: dict[str, int]) -> Found | None:
        """Put one probe's numbers, or the reason why there are none, into the report."""
        self.report.pop(name, None)
        self.report["options"].pop(name, None)
        self.report["absent"].pop(name, None)
        why = probe.requires(self.frozen)
        if not why:
            self._say(f"{name.replace('_', ' ')} …")
            try:
                found = probe.measure(self.frozen, **options)
                if bad := not_finite(found.numbers):
                    raise Unmeasurable(f"its number {bad} is not finite")
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


def _checked(settings: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """The options by the keys of probes in a report, from the names that the user typed;
    `UserError` for an unknown option.
    """
    checked = {}
    for typed, given in settings.items():
        ((name, probe),) = load_probes([typed]).items()
        for key, value in given.items():
            if key not in probe.options:
                reason = nearest(key, probe.options) if probe.options else ""
                raise UserError(f"{typed}.{key}: the probe has no such option{reason}")
            if value < 1:
                raise UserError(f"{typed}.{key}: must be 1 or more, got {value}")
        checked[name] = given
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


def find(target: Path, best: bool = False) -> Path:
    """The checkpoint of a run folder, or the file itself."""
    if not target.is_dir():
        return target
    folder = RunFolder(target)
    path = folder.best if best else folder.last
    if not path.is_file():
        raise UserError(f"{target}: holds no {path.name}; give a run folder or a checkpoint")
    return path


def usable_device(name: str) -> torch.device:
    """The device of that name; `UserError` if this machine has none."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device: '{name}' can not be used here ({reason})") from None
    return torch.device(name)
