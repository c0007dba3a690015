"""Time our code and that of other libraries ("peers") in one process, after a check that both
compute the same.

    twobounds bench                          # all sections
    twobounds bench queue loss --rounds 15
    twobounds bench knn --device cuda --json knn.json

Both sides take turns (A B A B …) with the same threads, so that other work on the machine slows
both equally. Still, measure on an idle machine. A ratio is the peer's median time divided by ours:
3.0x means that the peer takes three times as long. Memory is the additional peak memory of one
call; it is measured in a separate process for each side.
"""

import argparse
import importlib
import logging
import os
import pkgutil
import platform
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import parser
from core.errors import UserError, exit_cleanly, nearest
from scripts import benches
from scripts.shared import option

if TYPE_CHECKING:
    from rich.table import Table

# modules that are no sections: helpers, and programs that are started by themselves
OTHERS = ("contest", "intervals", "kept", "loop", "parity", "verdicts", "wandb_server")
SECTIONS = [
    module.name for module in pkgutil.iter_modules(benches.__path__) if module.name not in OTHERS
]


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    import torch

    from core.console import plain_console
    from core.machine import in_words
    from core.run.folder import make_folder
    from probes.report import store
    from probes.session import usable_device
    from scripts.benches.contest import peak_elsewhere, race

    for chatty in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    console = plain_console(120)
    device = usable_device(options.device)
    if options.json:
        make_folder(options.json.parent, "--json", "name another")
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    machine = f"{card}, {threads}, torch {torch.__version__}, {in_words()}"
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
        store.write_json(options.json, found)


def table(section: str, rows: list[dict[str, Any]]) -> "Table":
    """A line for each contest: times, spread, ratio, target ratio, and memory."""
    from probes.report.table import grid

    sides = ("ours", "peer")
    lines = []
    for row in rows:
        ours, peer = (
            f"{_milliseconds(row[side]['median'])} ({_spread(row[side])})" for side in sides
        )
        memory = "–"
        if "memory" in row:
            memory = " / ".join(f"{row['memory'][side] / 2**20:,.0f} MiB" for side in sides)
        target = f"{row['target']:g}x" if row["target"] else "–"
        ratio = f"{row['ratio']:.2f}x"
        lines.append(
            [row["name"], ours, row["peer_name"], peer, ratio, target, memory, row["same"]]
        )
    head = ("work", "ours", "peer", "peer's time", "ratio", "target")
    return grid(
        (*head, "memory, ours / peer", "same"), lines, ("work", "peer", "same"), title=section
    )


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f} ms" if seconds > 1e-3 else f"{1e3 * seconds:.3f} ms"


def _spread(times: dict[str, float]) -> str:
    """Half the distance between the quartiles, in percent of the median."""
    return f"±{50 * (times['high'] - times['low']) / times['median']:.0f}%"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("bench", __doc__)
    given.add_argument("sections", nargs="*", help=f"any of {', '.join(SECTIONS)} (default: all)")
    option(given, "--device", "cpu, cuda, cuda:1 …", "cpu")
    option(given, "--rounds", "timed turns of each side, after a first one that is not timed", 7)
    option(given, "--json", "a file for all numbers", type=Path)
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
