"""Compare probed checkpoints: one table and one picture of the bounds on mutual information.

    twobounds compare runs/*
    twobounds compare runs/* --out compare.pdf --csv compare.csv --latex compare.tex
    twobounds compare runs/* --probes linear,mypackage.spectrum.Spectrum

Runs that differ only in their training seed, and that were probed with the same --seed and options,
share one line, with mean and standard deviation.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import parser
from core.errors import UserError, exit_cleanly
from scripts.shared import option, probed_runs, read_reports, shown_probes, switch

PICTURES = (".png", ".pdf", ".svg")


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    _check_outputs(options)
    from core.console import plain_console
    from probes.report import comparison, groups, orders, table, tabular
    from probes.session import load_probes

    console, probes = plain_console(), load_probes(options.probes)
    reports = read_reports(options.runs, probes, options.mixed)
    if said := comparison.said_of_views(reports):
        console.print(said)
    lines = groups.grouped(reports, probes, options.each, options.mixed)
    plain_console(150).print(table.table(reports, probes, lines))
    for line in orders.said_of_orders(lines):
        console.print(line)
    comparison.compare(reports, probes, options.out, lines)
    console.print(f"picture: {options.out}")
    if "rate_head" in table.measured(reports, probes):
        curves = _curves(options.out)
        comparison.compare_curves(lines, probes, curves)
        console.print(f"picture: {curves}")
    if options.csv:
        console.print(f"table: {tabular.write_csv(lines, probes, options.csv)}")
    if options.latex:
        console.print(f"table: {tabular.write_latex(lines, probes, options.latex)}")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("compare", __doc__)
    probed_runs(given)
    option(given, "--out", "the picture (png, pdf or svg)", Path("compare.png"))
    switch(given, "--each", "one line for every run; seeds are not averaged")
    switch(given, "--mixed", "allow runs on different data")
    option(given, "--csv", "the table as plain numbers", type=Path, metavar="FILE")
    option(given, "--latex", "the table as a LaTeX tabular", type=Path, metavar="FILE")
    options = given.parse_args(argv)
    options.probes = shown_probes(options.probes)
    return options


def _curves(out: Path) -> Path:
    """The second picture, of rate-distortion curves."""
    return out.with_name(f"{out.stem}_rd{out.suffix}")


def _check_outputs(options: argparse.Namespace) -> None:
    """Raise `UserError` for an output file that can not be written, before any work."""
    from core.run.folder import home_expanded

    for key, suffixes in (("out", PICTURES), ("csv", (".csv",)), ("latex", (".tex",))):
        if getattr(options, key) is None:
            continue
        path = home_expanded(getattr(options, key), f"--{key}")
        setattr(options, key, path)
        if os.path.isdir(path):
            raise UserError(f"--{key}: {path} is a folder; name a file in it")
        if path.suffix.lower() not in suffixes:
            raise UserError(f"--{key}: {path} should end in {' or '.join(suffixes)}")
        if not os.path.isdir(path.parent):
            raise UserError(f"--{key}: there is no folder {path.parent}; make it, or name another")
        if key == "out" and os.path.isdir(_curves(path)):
            raise UserError(
                f"--out: the second picture, {_curves(path)}, is a folder; name another file"
            )
        try:
            longest = path.with_name(f".{path.stem}_rd{path.suffix}.{'0' * 16}.tmp")
            os.path.lexists(longest)
            with tempfile.NamedTemporaryFile(prefix=longest.name, dir=path.parent):
                pass
        except OSError as error:
            raise UserError(
                f"--{key}: {path} can not be written ({error.strerror}); name another"
            ) from None


if __name__ == "__main__":
    main()
