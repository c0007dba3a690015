"""Train, probe and compare one run for every combination of the values of some keys.

    twobounds sweep simclr_sprites optim.lr=1e-3,2e-3 seed=0,1,2
    twobounds sweep simclr_sprites optim.lr=1e-3,2e-3 seed=0,1,2 optim.epochs=1 --probes linear,knn
    twobounds sweep simclr_sprites optim.lr=1e-3,2e-3 seed=0,1,2 --sbatch sweep.sbatch
    twobounds sweep simclr_sprites optim.lr=1e-3,2e-3 seed=0,1,2 --wandb-sweep sweep.yaml

Keys with several values, separated by commas, span the grid; a key with one value has it in all
runs. Each run has its own folder: FOLDER/optim.lr=1e-3,seed=0 and so on. After an interruption,
call the same command again: a finished run is not trained again, and an unfinished one is resumed.
At the end one table shows mean and standard deviation over seeds. If a run fails, the others
continue.
"""

import argparse
import itertools
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import command, parser
from core.errors import UserError, exit_cleanly
from probes.registry import names_of
from scripts.shared import option, overrides, step, switch

if TYPE_CHECKING:
    from core.run.config import RunConfig

MOST = 10_000  # runs


class Grid(NamedTuple):
    """The runs of a sweep."""

    config: str
    folder: Path
    varied: dict[str, list[str]]  # key -> its values
    fixed: list[str]  # overrides of all runs

    def runs(self) -> list[tuple[Path, list[str]]]:
        """The folder and the overrides of each run."""
        found = []
        for values in itertools.product(*self.varied.values()):
            words = [f"{key}={value}" for key, value in zip(self.varied, values, strict=True)]
            name = ",".join(words).replace("/", "-") or "run"
            found.append((self.folder / name, [*self.fixed, *words]))
        return found


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    grid = read_grid(options.config, options.overrides)
    runs = grid.runs()
    if options.only is not None:
        if not 0 <= options.only < len(runs):
            raise UserError(f"--only: the sweep has the runs 0 to {len(runs) - 1}")
        runs = [runs[options.only]]
    for path, text in (
        (options.sbatch, lambda: sbatch(grid, options)),
        (options.wandb_sweep, lambda: wandb_sweep(grid, options)),
    ):
        if path:
            from probes.report.store import write_text

            print(f"wrote {write_text(path, text())}: {len(runs)} runs")
    if not (options.sbatch or options.wandb_sweep):
        sweep(grid, runs, options)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("sweep", __doc__)
    given.add_argument("config", help="a YAML file or the name of a packaged config")
    overrides(
        given, "keys of the config; keys with several values, separated by commas, span the grid"
    )
    option(
        given,
        "--probes",
        "the probes, separated by commas; none = only train (default: those of `probe`)",
        type=lambda words: [] if words == "none" else names_of(words),
    )
    option(given, "--only", "train one run of the grid, counted from 0", type=int, metavar="N")
    option(given, "--out", "the picture (png, pdf or svg; default: FOLDER/compare.png)", type=Path)
    option(given, "--csv", "the table as plain numbers", type=Path, metavar="FILE")
    option(given, "--latex", "the table as a LaTeX tabular", type=Path, metavar="FILE")
    option(given, "--sbatch", "write a SLURM array script, run nothing", type=Path, metavar="FILE")
    option(given, "--wandb-sweep", "write a W&B sweep file, run nothing", type=Path, metavar="FILE")
    switch(given, "--dry-run", "list the runs and how far each one is, run nothing")
    return given.parse_intermixed_args(argv)


def read_grid(path: str, words: list[str]) -> Grid:
    """The grid of a config and its overrides; every combination is checked before any work."""
    from core.run import config

    varied, fixed, folder = {}, [], ""
    for word in words:
        key, equals, value = word.partition("=")
        values = split_values(value)
        if key == "folder":
            folder = value
        elif key == "resume":
            raise UserError("resume: leave it out; a sweep always resumes unfinished runs")
        elif equals and len(values) > 1:
            if len(set(values)) < len(values):
                raise UserError(f"{word}: names a value twice")
            varied[key] = values
        else:
            fixed.append(word)
    base = config.read(path, fixed)
    top = Path(folder or f"{base.folder}_sweep").expanduser()
    if not (base.wandb.group or os.environ.get("WANDB_RUN_GROUP")):
        fixed.append(f"wandb.group={top.name}")
    grid = Grid(path, top, varied, fixed)
    runs = grid.runs()
    if len(runs) > MOST:
        raise UserError(f"the grid has {len(runs):,} runs; a sweep has at most {MOST:,}")
    _refuse_equal_runs(
        [(place, config.read(path, [*words, f"folder={place}"])) for place, words in runs]
    )
    return grid


def _refuse_equal_runs(runs: "list[tuple[Path, RunConfig]]") -> None:
    """`UserError` if two runs would have one folder, or are the same run in two folders."""
    from core.run import config

    folders: set[Path] = set()
    known: dict[str, Path] = {}
    for place, run in runs:
        if place in folders:
            raise UserError(
                f"two runs of the grid would have the folder {place}, because / becomes - in its"
                " name; call the command once for each, with another folder=…"
            )
        folders.add(place)
        values = {key: held for key, held in config.to_dict(run).items() if key != "folder"}
        other = known.setdefault(json.dumps(values, sort_keys=True, default=str), place)
        if other != place:
            raise UserError(f"{other.name} and {place.name} are the same run; leave one out")


def split_values(text: str) -> list[str]:
    """The values of a key: parts between commas outside of brackets and quotes.

    >>> split_values("0.1,0.3"), split_values("[1,2],[3]"), split_values("'a,b'")
    (['0.1', '0.3'], ['[1,2]', '[3]'], ["'a,b'"])
    """
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()] or [text]


def sweep(grid: Grid, runs: list[tuple[Path, list[str]]], options: argparse.Namespace) -> None:
    """Train and probe what is missing, then compare."""
    from core.console import plain_console
    from core.run import config
    from core.run.finished import state_of

    console, failed = plain_console(), []
    for number, (place, words) in enumerate(runs, 1):
        words = [*words, f"folder={place}"]
        run = config.read(grid.config, words)
        state = state_of(place, run)
        console.print(f"\nrun {number} of {len(runs)}: {place} ({state})")
        if options.dry_run:
            continue
        try:
            if state != "done":
                step("pretrain.py", grid.config, *words, "resume=true")
            if options.probes != []:
                names = ["--probes", ",".join(options.probes)] if options.probes else []
                moved = [f"data.root={run.data.root}"] if state.startswith("done,") else []
                step("probe.py", place, *names, *moved)
        except SystemExit as end:
            if end.code not in (1, 2):  # a signal: stop here, a later call continues
                raise
            failed.append(str(place))
    if options.dry_run:
        return
    good = [place for place, _ in runs if str(place) not in failed]
    if good and options.probes != [] and options.only is None:
        out = options.out or grid.folder / "compare.png"
        files = [
            word
            for key in ("csv", "latex")
            if (path := getattr(options, key))
            for word in (f"--{key}", path)
        ]
        step("compare.py", *good, "--out", out, *files)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(runs)} runs failed ({', '.join(failed)}); their errors are"
            " above. The same command tries them again"
        )


def sbatch(grid: Grid, options: argparse.Namespace) -> str:
    """A SLURM array script with a task for each run; a preempted task requeues itself."""
    words = [*command("sweep").split(), grid.config, *_words(grid, options)]
    count = len(grid.runs())
    return f"""#!/bin/bash
# {count} runs, one for each task. Afterwards this command prints the table of all runs:
#   {shlex.join(words)}
#SBATCH --job-name=twobounds-sweep
#SBATCH --array=0-{count - 1}
#SBATCH --gpus-per-task=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=USR1@120
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.out
ended=
trap : USR1 # this shell ignores the signal and waits for its task
trap ended=yes TERM # scancel: do not requeue
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" # since SLURM 22.05, srun does not inherit it
srun {shlex.join(words)} --only "$SLURM_ARRAY_TASK_ID"
code=$?
if [ "$code" -eq 75 ] && [ -z "$ended" ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID" && exit 0
fi
exit "$code"
"""


def wandb_sweep(grid: Grid, options: argparse.Namespace) -> str:
    """A W&B sweep file for `wandb sweep FILE`; each of its agents trains and probes runs."""
    import yaml

    parameters = {key: {"values": values} for key, values in grid.varied.items()}
    if not parameters:
        raise UserError("--wandb-sweep: no key has several values, such as seed=0,1,2")
    fixed = Grid(grid.config, grid.folder, {}, grid.fixed)
    call = [*command("sweep").split(), grid.config, *_words(fixed, options)]
    return yaml.safe_dump(
        {
            "program": "twobounds",
            "method": "grid",
            "parameters": parameters,
            "command": ["${env}", *call, "${args_no_hyphens}"],
        },
        sort_keys=False,
    )


def _words(grid: Grid, options: argparse.Namespace) -> list[str]:
    """The words after the config that repeat this sweep."""
    spread = [f"{key}={','.join(values)}" for key, values in grid.varied.items()]
    probes = []
    if options.probes is not None:
        probes = ["--probes", ",".join(options.probes) or "none"]
    return [*spread, *grid.fixed, f"folder={grid.folder}", *probes]


if __name__ == "__main__":
    main()
