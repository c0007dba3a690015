"""Put probed checkpoints side by side: one table and one picture of the two views on mutual
information.

python scripts/compare.py runs/* --out compare.png
"""

import core  # noqa: F401
from core.errors import UserError, exit_cleanly

import argparse
from pathlib import Path

from rich.console import Console

from probes.registry import PROBES
from probes.report import comparison, figures, store, table
from probes.session import load_probes


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
    console = Console(highlight=False, soft_wrap=True)
    reports, probes = [], load_probes(list(PROBES))
    for run in options.runs:
        path = run / "probe" / "probe.json" if run.is_dir() else run
        if path.is_file():
            reports.append(store.load(path, probes))
        else:
            console.print(f"{run}: not probed, left out (python scripts/probe.py {run})")
    if not reports:
        raise UserError("none of these is probed; run scripts/probe.py on them first")
    if not options.out.parent.is_dir():
        raise UserError(f"--out: there is no folder {options.out.parent}")
    Console(width=max(console.width, 150), highlight=False).print(table.table(reports, probes))
    comparison.compare(reports, probes, options.out)
    console.print(f"picture: {options.out}")
    if any(found.get("rate_head") for found in reports):
        curves = options.out.with_name(f"{options.out.stem}_rd.png")
        heads = comparison.entries(reports, "rate_head")
        figures.rate_distortion([(entry.label, entry.numbers) for entry in heads], curves)
        console.print(f"picture: {curves}")


if __name__ == "__main__":
    main()
