"""How fast, beside the peer's own code, in one process: ratios of medians, after a check that both
compute the same thing.

    twobounds bench                          # all sections
    twobounds bench queue loss --rounds 15
    twobounds bench knn --device cuda --json knn.json

Both sides take turns (A B A B …) with the same threads, so that what else the machine does falls on
both; still, time on an idle one. Ratios are peer / ours: 3.0x means that the peer takes three times
as long. Memory is what one call needs at its peak beyond what was there before, each side in a
process of its own.
"""

import argparse
import importlib
import json
import logging
import os
import pkgutil
import platform
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # called by its path: the checkout that it stands in comes first
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import parser
from core.errors import UserError, exit_cleanly, nearest
from scripts import benches

if TYPE_CHECKING:
    import torch
    from rich.table import Table

SECTIONS = [
    module.name
    for module in pkgutil.iter_modules(benches.__path__)
    if module.name not in ("contest", "loop", "peak", "wandb_server")
]


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    import torch

    from core.console import plain_console
    from core.files import write_atomically
    from core.run.folder import make_folder
    from scripts.benches.contest import peak_elsewhere, race

    for chatty in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    console = plain_console(120)
    device = usable_device(options.device)
    if options.json:
        make_folder(options.json.parent, "--json", "name another")
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    machine = f"{card}, {torch.get_num_threads()} threads"
    machine += (
        f" of {os.cpu_count()} cores, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"
    )
    console.print(machine)
    found: dict[str, Any] = {"machine": machine, "rounds": options.rounds, "sections": {}}
    for section in options.sections:
        rows = []
        for contest in importlib.import_module(f"scripts.benches.{section}").contests(device):
            console.print(f"{section}: {contest.name} …", style="dim")
            row = race(contest, options.rounds, device)
            if contest.memory:
                row["memory"] = {
                    side: peak_elsewhere(section, contest.name, side, device)
                    for side in ("ours", "peer")
                }
            rows.append(row)
        found["sections"][section] = rows
        console.print(table(section, rows))
    if options.json:
        write_atomically(
            options.json, lambda temporary: temporary.write_text(json.dumps(found, indent=1) + "\n")
        )


def table(section: str, rows: list[dict[str, Any]]) -> "Table":
    """One line a contest: times, spread, ratio beside the one asked for, and memory."""
    from rich.table import Table

    made = Table(title=section, title_justify="left", header_style="bold")
    for heading in (
        "work",
        "ours",
        "peer",
        "peer's time",
        "ratio",
        "asked",
        "memory, ours / peer",
        "same",
    ):
        made.add_column(
            heading,
            justify="left" if heading in ("work", "peer", "same") else "right",
            no_wrap=heading == "ratio",
        )
    for row in rows:
        ours, peer = (
            f"{_milliseconds(row[side]['median'])} ({_spread(row[side])})"
            for side in ("ours", "peer")
        )
        memory = (
            " / ".join(f"{row['memory'][side] / 2**20:,.0f} MiB" for side in ("ours", "peer"))
            if "memory" in row
            else "–"
        )
        asked = f"{row['target']:g}x" if row["target"] else "–"
        made.add_row(
            row["name"],
            ours,
            row["peer_name"],
            peer,
            f"{row['ratio']:.2f}x",
            asked,
            memory,
            row["same"],
        )
    return made


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f} ms" if seconds > 1e-3 else f"{1e3 * seconds:.3f} ms"


def _spread(times: dict[str, float]) -> str:
    # half the distance of the quartiles
    return f"±{50 * (times['high'] - times['low']) / times['median']:.0f}%"


def usable_device(name: str) -> "torch.device":
    """The device of that name; `UserError` where this machine has none."""
    import torch

    try:
        if torch.device(name).type == "cuda" and not torch.cuda.is_available():
            raise UserError(f"--device: there is no '{name}' here")
    except RuntimeError:
        raise UserError(f"--device: '{name}' is no device; try cpu or cuda") from None
    return torch.device(name)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("bench", __doc__)
    given.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)} (default: all)")
    given.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: %(default)s)")
    given.add_argument(
        "--rounds",
        type=int,
        default=7,
        help="timed turns of each side, after one that warms up (default: %(default)s)",
    )
    given.add_argument("--json", type=Path, help="where to write every number")
    options = given.parse_args(argv)
    for section in options.sections:
        if section not in SECTIONS:
            raise UserError(f"there is no section '{section}'{nearest(section, SECTIONS)}")
    if options.rounds < 1:
        raise UserError(f"--rounds: must be 1 or more, got {options.rounds}")
    options.sections = options.sections or SECTIONS
    return options


if __name__ == "__main__":
    main()
