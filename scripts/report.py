"""Write one HTML page about probed checkpoints: their numbers, what limits them, and pictures.

    twobounds report runs/a runs/b -o report.html
    twobounds report runs/* --title "SimCLR and MoCo on our pictures" -o page.html
    twobounds report runs/* --probes linear,mypackage.spectrum.Spectrum

The page is one file. It needs no server and no network, so it can be mailed. Runs that differ only
in their training seed, and that were probed with the same --seed and options, share one row. A map
of the features and the scores of candidates are shown for checkpoints of this project whose
features lie beside them.
"""

import argparse
import os
import sys
import time
from pathlib import Path

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import parser
from core.errors import UserError, exit_cleanly
from scripts.shared import option, probed_runs, read_reports, shown_probes, switch

LONGEST = 200  # characters of a title


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    out = checked_output(options.out)
    started = time.monotonic()
    from core.console import plain_console
    from probes.report import groups
    from probes.report.page import build
    from probes.session import load_probes

    probes = load_probes(options.probes)
    reports = read_reports(options.runs, probes, options.mixed)
    lines = groups.grouped(reports, probes, options.each, options.mixed)
    build.write(lines, probes, out, options.title, not options.quick)
    size, seconds = out.stat().st_size / 1e6, time.monotonic() - started
    plain_console().print(f"report: {out} ({size:.1f} MB, {seconds:.1f} s); open it in a browser")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("report", __doc__)
    probed_runs(given)
    option(given, "--out", "the page", Path("report.html"))
    given.add_argument(
        "-o", dest="out", type=Path, help="the same as --out", default=argparse.SUPPRESS
    )
    option(
        given,
        "--title",
        "the title of the page (default: What these encoders carry)",
        type=_title,
        default="",
    )
    switch(given, "--each", "one row for every run; seeds are not averaged")
    switch(given, "--mixed", "allow runs on different data")
    switch(given, "--quick", "no maps of features and no scores of candidates")
    options = given.parse_args(argv)
    options.probes = shown_probes(options.probes)
    return options


def _title(text: str) -> str:
    if len(text) > LONGEST:
        raise argparse.ArgumentTypeError(f"must have at most {LONGEST} characters, got {len(text)}")
    return text


def checked_output(path: Path) -> Path:
    """The path of the page; `UserError` if it can not be written."""
    from core.run.folder import home_expanded

    path = home_expanded(path, "--out")
    if os.path.isdir(path):
        raise UserError(f"--out: {path} is a folder; name a file in it, such as {path}/report.html")
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out: {path} should end in .html")
    if not os.path.isdir(path.parent):
        raise UserError(f"--out: there is no folder {path.parent}; make it, or name another")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--out: {path.parent} can not be written to; name another folder")
    return path


if __name__ == "__main__":
    main()
