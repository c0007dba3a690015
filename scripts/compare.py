"""Put probed checkpoints side by side: one table and one picture of the two views on mutual
information.

python scripts/compare.py runs/* --out compare.png
"""

import core  # noqa: F401
from core.console import plain_console
from core.errors import UserError, exit_cleanly

import argparse
from pathlib import Path

from probes import figures, report


@exit_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        help="run folders that scripts/probe.py has probed, or their probe.json",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("compare.png"), help="the picture (default: %(default)s)"
    )
    options = parser.parse_args()
    console = plain_console()
    reports = []
    for run in options.runs:
        path = run / "probe" / "probe.json" if run.is_dir() else run
        if path.is_file():
            reports.append(report.load(path))
        else:
            console.print(f"{run}: not probed, left out (python scripts/probe.py {run})")
    if not reports:
        raise UserError("none of these is probed; run scripts/probe.py on them first")
    if not options.out.parent.is_dir():
        raise UserError(f"--out: there is no folder {options.out.parent}")
    plain_console(150).print(report.table(reports))
    figures.compare(reports, options.out)
    console.print(f"picture: {options.out}")
    if any(found.get("rate_head") for found in reports):
        curves = options.out.with_name(f"{options.out.stem}_rd.png")
        figures.rate_distortion(reports, curves)
        console.print(f"picture: {curves}")


if __name__ == "__main__":
    main()
