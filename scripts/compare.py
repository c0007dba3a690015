"""Put probed checkpoints side by side: one table and one picture of the two views on mutual
information.

    twobounds compare runs/* --out compare.png
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # called by its path: the checkout that it stands in comes first
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import command, parser
from core.errors import UserError, exit_cleanly


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    from core.console import plain_console
    from probes.registry import PROBES
    from probes.report import comparison, figures, store, table
    from probes.session import load_probes

    console = plain_console()
    reports, probes = [], load_probes(list(PROBES))
    for run in options.runs:
        path = run / "probe" / "probe.json" if run.is_dir() else run
        if path.is_file():
            reports.append(store.load(path, probes))
        else:
            console.print(f"{run}: not probed, left out ({command('probe')} {run})")
    if not reports:
        raise UserError(f"none of these is probed; run {command('probe')} on them first")
    if not options.out.parent.is_dir():
        raise UserError(f"--out: there is no folder {options.out.parent}")
    plain_console(150).print(table.table(reports, probes))
    comparison.compare(reports, probes, options.out)
    console.print(f"picture: {options.out}")
    if any(found.get("rate_head") for found in reports):
        curves = options.out.with_name(f"{options.out.stem}_rd.png")
        heads = comparison.entries(reports, "rate_head")
        figures.rate_distortion([(entry.label, entry.numbers) for entry in heads], curves)
        console.print(f"picture: {curves}")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("compare", __doc__)
    given.add_argument(
        "runs", nargs="+", type=Path, help="run folders that are probed, or their probe.json"
    )
    given.add_argument(
        "--out", type=Path, default=Path("compare.png"), help="the picture (default: %(default)s)"
    )
    return given.parse_args(argv)


if __name__ == "__main__":
    main()
