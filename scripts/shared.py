"""Helpers of several commands: options, and the steps of a study. Imports nothing heavy."""

import argparse
import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.commands import command, through
from core.errors import UserError, shown

if TYPE_CHECKING:
    from core.run.checkpoint import Loaded
    from probes.report.schema import Report
    from probes.report.table import Probes

LEAST_PAIRS = 100
SCRIPTS = Path(__file__).resolve().parent


def option(
    parser: argparse.ArgumentParser, name: str, about: str, default: Any = None, **more: Any
) -> None:
    """Add an option; its default, if any, gives its type and is shown by --help."""
    if default not in (None, [], ""):
        more.setdefault("type", Path if isinstance(default, Path) else type(default))
        about = f"{about} (default: %(default)s)".lstrip()
    parser.add_argument(name, help=about, default=default, **more)


def switch(parser: argparse.ArgumentParser, name: str, about: str) -> None:
    """Add an option without a value."""
    parser.add_argument(name, action="store_true", help=about)


def probed_runs(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of commands that show reports: the runs, and which probes to show."""
    from probes.registry import PROBES, names_of

    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN_OR_CKPT",
        help="probed run folders or checkpoints, or their probe.json",
    )
    option(
        parser,
        "--probes",
        f"the probes to show, separated by commas: any of {', '.join(PROBES)}, and"
        " package.module.Class for probes of your own. If you name only probes of your own, the"
        " others are shown, too (default: all but your own)",
        type=names_of,
    )


def shown_probes(asked: list[str] | None) -> list[str]:
    """The names of the probes that --probes asks for."""
    from probes.registry import PROBES

    own = asked or []
    return own if any(name in PROBES for name in own) else [*PROBES, *own]


def read_reports(targets: list[Path], probes: "Probes", mixed: bool) -> "list[Report]":
    """The reports of run folders, checkpoints and report files. A target without a report is left
    out, and a line says so. `UserError` if no target has a report, or if the reports are of
    different data (unless `mixed`).
    """
    from probes.report import comparison, store

    found: dict[Path, Report] = {}
    for target in _expanded(targets):
        path, others = store.find(target)
        if path is None:
            if not os.path.exists(target):
                raise UserError(f"{target}: there is no such file or folder")
            more = f"; it holds {', '.join(map(str, others))}" if others else ""
            print(f"{target}: not probed, left out ({command('probe')} {target}){more}")
            continue
        if others:
            print(f"{target}: uses {path}; there are also {', '.join(map(str, others))}")
        if path.resolve() in found:
            print(f"{target}: {path} was named before and counts once")
            continue
        found[path.resolve()] = store.placed(store.load(path, probes), path)
    reports = list(found.values())
    if not reports:
        raise UserError(f"none of these has been probed; run {command('probe')} on them first")
    if not mixed:
        comparison.require_one_data_set(reports)
    if said := said_of_own(reports, probes):
        print(said)
    return reports


def said_of_own(reports: "list[Report]", probes: "Probes") -> str:
    """A line if reports hold numbers of probes of the user's own that are not shown, else "". If
    the user has chosen among the project's probes, nothing is said.
    """
    from probes.registry import PROBES
    from probes.report.schema import KEYS

    known = KEYS | PROBES.keys() | probes.keys()
    names = sorted({shown(key) for report in reports for key in report.keys() - known})
    if not names or not PROBES.keys() <= probes.keys():
        return ""
    more = ", …" if len(names) > 3 else ""
    return (
        f"not shown: numbers of probes of your own ({', '.join(names[:3])}{more}); to show them,"
        " add --probes package.module.Class with the class of each"
    )


def _expanded(targets: list[Path]) -> list[Path]:
    """The targets. A folder that holds probed runs and has no report of its own, such as the folder
    of a sweep, is replaced by these runs.
    """
    from probes.report import store

    found: list[Path] = []
    for target in targets:
        runs = []
        if os.path.isdir(target) and store.find(target) == (None, []):
            held = [path.parent.parent for path in target.glob("*/probe/probe.json")]
            runs = sorted(held, key=_by_numbers)
        if runs:
            print(f"{target}: uses its {len(runs)} probed run{'s' if len(runs) > 1 else ''}")
        found += runs or [target]
    return found


def _by_numbers(path: Path) -> list[tuple[float, str]]:
    """A key that puts beta_3 before beta_10."""
    parts = re.split(r"(\d+(?:\.\d+)?)", path.name)
    return [(float(part), "") if place % 2 else (-1.0, part) for place, part in enumerate(parts)]


def require_seeds(**seeds: int) -> None:
    """`UserError` for a seed that no generator takes; `estimator_seed` is --estimator-seed."""
    for name, value in seeds.items():
        if not 0 <= value < 2**63:
            key = f"--{name.replace('_', '-')}"
            raise UserError(f"{key}: must be 0 or more and below 2^63, got {shown(value)}")


def pair_counts(text: str) -> list[int]:
    """The numbers of --pairs, in rising order, or `UserError`."""
    found = set()
    for word in text.split(","):
        if not word.strip().isdecimal() or not LEAST_PAIRS <= int(word) <= 10**6:
            raise UserError(
                f"--pairs: {shown(word)} is not a number of pairs from {LEAST_PAIRS} to 1,000,000;"
                " give numbers such as 500,2000"
            )
        found.add(int(word))
    return sorted(found)


def overrides(parser: argparse.ArgumentParser, about: str) -> None:
    """Add the argument for `key=value` overrides of a config."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=about)


def step(script: str, *words: object) -> Any:
    """Print a command line and run it. It runs in this process, because importing torch takes
    seconds. Only a training with several processes runs in a new process. Returns what its `main`
    returns. If the step fails, this command ends with its exit code.
    """
    name, rest = script.removesuffix(".py"), [str(word) for word in words]
    print(f"\n$ {shlex.join([*command(name).split(), *rest])}", flush=True)
    front = [sys.argv[0], name] if through() else [str(SCRIPTS / script)]
    if name == "pretrain" and _starts_processes(rest):
        if code := subprocess.call([sys.executable, *front, *rest]):
            raise SystemExit(code)
        return None
    handled = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        return importlib.import_module(f"scripts.{name}").main(rest)
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)


def probed(path: Path, probe: str, overrides: Sequence[str] = ()) -> "Report":
    """The report of a checkpoint or a run folder, which holds this probe. A probe that was measured
    before, on the same weights and data, is not repeated. `UserError` if it can not be measured.
    """
    (report,) = step("probe.py", path, "--probes", probe, *overrides)
    if probe not in report:
        raise UserError(f"{path}: no {probe}: {report['absent'].get(probe, 'not measured')}")
    return report


def known_truth(table: dict[str, Any], picture: Path) -> None:
    """Print a table of measured and true information (`probes.samples.truth`), write it as JSON and
    draw it.
    """
    from core.console import plain_console
    from probes.report import store, truth_figures
    from probes.samples import truth

    plain_console(120).print(truth.lines(table))
    print(*truth.at_largest(table), sep="\n")
    kept = store.write_json(picture.with_suffix(".json"), table)
    truth_figures.truth(table, picture)
    print(f"The picture: {picture}; the table: {kept}")


def same_weights(path: Path, report: "Report") -> "Loaded":
    """The checkpoint that a report is about. `UserError` if the file was replaced since then."""
    from core.run import checkpoint
    from core.trust import package_of

    found = checkpoint.load_method(path, trusted=[package_of(report["method"])])
    if found.digest != report["digest"]:
        raise UserError(f"{path}: was replaced after it was measured; run this command again")
    return found


def _starts_processes(words: list[str]) -> bool:
    """Whether a run trains with several processes. Each of them calls the command line again."""
    from core.run import config

    trainer = config.read(words[0], [word for word in words[1:] if "=" in word]).trainer
    return (trainer.devices, trainer.num_nodes) != ("1", 1)
