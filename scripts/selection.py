"""Show which label-free number of a checkpoint follows the accuracy of a linear probe.

    twobounds selection runs/*                     # of your own probed runs, 5 or more
    twobounds selection --root /path/that/holds/MNIST          # the study of docs/selection.md
    twobounds selection --quick                    # 8 small runs on sprites: about 2 minutes

Without runs, the command trains and probes 40 small checkpoints on sprites and MNIST, in about 20
minutes of CPU time. They are from SimCLR, MoCo, VICReg and beta-VAE, with different temperatures,
epochs, widths and augmentations. If a call is interrupted, the same call continues where it
stopped; nothing is trained or probed twice.

For each label-free number it prints Spearman's correlation with two accuracies, of the linear probe
and of kNN. The correlation is over checkpoints, within each data set and pooled, with 95% bootstrap
intervals. The command writes a table (Markdown and JSON) and a picture. Measure your own runs first
with `probe --probes linear,knn,information,geometry`, for VAEs also rate. All runs of a data set
are compared together.
"""

import argparse
import functools
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import parser
from core.errors import UserError, exit_cleanly, nearest
from scripts.selection_grid import PROBES, SETS, SIZES, Recipe, recipes
from scripts.shared import option, read_reports, step, switch

if TYPE_CHECKING:
    import numpy as np

    from probes.report.schema import Report


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    from core.run.folder import picture_place

    place = Path() if options.runs else options.out
    picture = picture_place(options.picture, place, "selection.png")
    targets = options.runs or study(options)
    from core.console import plain_console
    from probes.report import selection, selection_figures, store
    from probes.session import load_probes

    reports: list[Report] = read_reports(targets, load_probes(PROBES.split(",")), mixed=True)
    found = selection.collect(reports)
    plain_console(150).print(selection.table(found))
    print(*selection.sentences(found), sep="\n")
    store.write_json(picture.with_suffix(".json"), found)
    store.write_text(picture.with_suffix(".md"), selection.markdown(found))
    selection_figures.draw(found, picture)
    print(f"The picture: {picture}; the tables: {picture.with_suffix('.md')} and .json")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("selection", __doc__)
    given.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN_OR_CKPT",
        help="probed run folders or checkpoints of your own (default: train those of the study)",
    )
    option(given, "--out", "folder of the study's runs and tables", Path("runs/selection"))
    option(given, "--sets", "data sets of the study, separated by commas", ",".join(SETS))
    option(given, "--root", "the folder that holds MNIST", Path("data"))
    switch(given, "--download", "fetch MNIST if it is missing")
    switch(given, "--quick", "a small grid on sprites")
    option(
        given,
        "--picture",
        "a PNG; the tables are beside it (default: selection.png, in OUT for the study)",
        type=Path,
    )
    options = given.parse_args(argv)
    _refuse_what_is_not_read(given, options)
    options.sets = [word.strip() for word in options.sets.split(",")]
    for word in options.sets:
        if word not in SETS:
            raise UserError(f"--sets: there is no '{word}'{nearest(word, SETS)}")
    return options


def _refuse_what_is_not_read(given: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """`UserError` for an option of the study beside the user's own runs, or beside --quick."""
    unread = {"sets": "--quick", "root": "--quick", "download": "--quick"} if options.quick else {}
    if options.runs:
        unread = dict.fromkeys(("out", "sets", "root", "download", "quick"), "runs of your own")
    for key, beside in unread.items():
        if getattr(options, key) != given.get_default(key):
            raise UserError(f"--{key}: has no effect with {beside}; leave one of them out")


def study(options: argparse.Namespace) -> list[Path]:
    """Train and probe what is missing of the study; returns the folders of its runs."""
    from core.console import plain_console
    from core.run.progress import duration

    console = plain_console()
    mnist = options.out / "mnist_{train}_{validation}_{test}".format(**SIZES)
    if "mnist" in options.sets and not options.quick:
        small_mnist(options, mnist)
    planned = recipes(options.sets, mnist, options.quick)
    spent: list[float] = []  # seconds of each run that was not complete
    failed = []
    for number, recipe in enumerate(planned, 1):
        left = ""
        if spent:
            mean = sum(spent) / len(spent)
            left = f" · about {duration(mean * (len(planned) - number + 1))} left"
        console.print(f"\nrun {number} of {len(planned)}: {recipe.name}{left}")
        started = time.monotonic()
        try:
            if completed(recipe, options.out / recipe.name):
                spent.append(time.monotonic() - started)
        except SystemExit as end:
            if end.code not in (1, 2):  # a signal: stop here, a later call continues
                raise
            failed.append(recipe.name)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(planned)} runs failed ({', '.join(failed)}); their errors are"
            " above. The same command tries them again"
        )
    return [options.out / recipe.name for recipe in planned]


def completed(recipe: Recipe, place: Path) -> bool:
    """Train and probe a run if it is not complete. Returns whether there was something to do."""
    from core.run import config
    from core.run.finished import state_of

    words = [*recipe.words, f"folder={place}"]
    done = state_of(place, config.read(recipe.config, words)) == "done"
    if done and probed(place):
        print(f"{place}: complete")
        return False
    if not done:
        step("pretrain.py", recipe.config, *words, "resume=true")
    step("probe.py", place, "--probes", PROBES)
    # 46 MB a run, which only another call of `probe` would read
    shutil.rmtree(place / "features", ignore_errors=True)
    return True


def probed(place: Path) -> bool:
    """Whether the report of a finished run is about its weights and has, for each probe, numbers or
    the reason why there are none.
    """
    from core.run import checkpoint
    from probes.report import store

    try:
        report = store.load(place / "probe" / "probe.json")
        digest = checkpoint.digest(place / "last.ckpt")
    except (UserError, OSError):
        return False
    held = report["options"].keys() | report["absent"].keys()
    return report["digest"] == digest and held >= set(PROBES.split(","))


def small_mnist(options: argparse.Namespace, place: Path) -> None:
    """Write a smaller MNIST, in the original format. Its images are evenly spread over the official
    splits. Files that are complete already are kept.
    """
    from core.data.readers import open_official
    from core.data.source import spread
    from core.files import write_atomically

    sizes = {"train": SIZES["train"] + SIZES["validation"], "test": SIZES["test"]}
    raw = place / "MNIST" / "raw"
    for split, count in sizes.items():
        prefix = "t10k" if split == "test" else "train"
        paths = [raw / f"{prefix}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
        if all(path.is_file() for path in paths):
            continue
        try:
            official: Any = open_official("mnist", str(options.root), options.download, split)
        except UserError as error:
            first = str(error).partition(";")[0].removeprefix("data.root: ")
            raise UserError(
                f"--root: {first}; name the folder that holds MNIST/raw, add --download, or leave"
                " MNIST out with --sets sprites"
            ) from None
        kept = spread(len(official.targets), count)
        raw.mkdir(parents=True, exist_ok=True)
        for path, values in zip(paths, (official.data, official.targets), strict=True):
            write_atomically(path, functools.partial(write_idx, values[kept].numpy()))


def write_idx(values: "np.ndarray", path: Path) -> None:
    """Write bytes in MNIST's format: 0, 0, type 8, number of axes, each length, the values."""
    head = bytes([0, 0, 8, values.ndim])
    head += b"".join(length.to_bytes(4, "big") for length in values.shape)
    path.write_bytes(head + values.astype("uint8").tobytes())


if __name__ == "__main__":
    main()
