"""Compare bounds on the mutual information of pairs of images with its exact value.

    twobounds image-truth --root /path/that/holds/MNIST      # all, about 40 minutes on one CPU core
    twobounds image-truth --root /data --quick               # a source of each kind, n = 500
    twobounds image-truth --only sprites --pairs 2000,50000  # sprites need no MNIST

The sources are:

    digits    grids of MNIST digits that show bits, with and without backgrounds; the bits of y are
              those of x after a binary symmetric channel; 0 to 10 bits of information
    cells     grids whose cells show several bits
    sprites   sprites of M contents; log M nats
    coloured  coloured digits after invertible maps, which do not change the information

For each source and number of pairs n, InfoNCE, alpha, NWJ, DV and SMILE are measured on held-out
pairs. Two published estimators (MINE, DV) are measured on their training batches, as they were
published, and on held-out pairs.

It writes a page with tables (OUT/image_truth.md), a picture and the numbers as JSON. Finished rows
are kept in OUT/rows. If the command is interrupted (Ctrl-C), it writes the page of the finished
rows, and the same command continues from there. A later call can add sources or pairs. Rows whose
pairs or seed differ are measured again.
"""

import argparse
import functools
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import command, parser
from core.errors import UserError, exit_cleanly
from scripts.shared import option, pair_counts, require_seeds, switch
from scripts.sprites_truth import SPRITES

if TYPE_CHECKING:
    from rich.console import Console

    from probes.samples.image_sources import ImageSource, Pools

PAIRS = (500, 2000, 10_000)
MAPS = ("unchanged", "bent", "permuted", "mixed")
BIT = math.log(2)  # nats


class Task(NamedTuple):
    """A source of the study. `cost`: its pixels, to which the time is about proportional."""

    kind: str
    name: str
    make: "Callable[[Pools | None], ImageSource]"
    cost: int
    mnist: bool


def tasks() -> list[Task]:
    """All sources, in the order of the page."""
    found = []
    for bits in (0, 1, 2, 4, 7, 10):
        make = functools.partial(_grid, (2, 5, bits * BIT))
        found.append(Task("digits", f"digits {bits} bits", make, 2560, True))
    for bits in (1, 4, 10):
        make = functools.partial(_grid, (2, 5, bits * BIT, 1, True))
        found.append(Task("backgrounds", f"digits on backgrounds {bits} bits", make, 2560, True))
    for bits in (3, 6, 9):
        make = functools.partial(_grid, (1, 3, bits * BIT, 3))
        found.append(Task("cells", f"cells of 3 bits {bits} bits", make, 768, True))
    for m in SPRITES:
        make = functools.partial(_sprites, m)
        found.append(Task("sprites", f"sprites M = {m:,}", make, 1024, False))
    for name in MAPS:
        make = functools.partial(_coloured, name)
        found.append(Task("maps", f"coloured digits {name}", make, 1024, True))
    return found


def _grid(words: tuple[Any, ...], pools: "Pools | None") -> "ImageSource":
    from probes.samples.image_sources import digit_grid

    assert pools
    return digit_grid(pools, *words)


def _sprites(m: int, pools: "Pools | None") -> "ImageSource":
    from core.data.sprites import SpritesConfig
    from probes.samples.image_sources import sprites

    return sprites(SpritesConfig(**SPRITES[m]))


def _coloured(name: str, pools: "Pools | None") -> "ImageSource":
    """Images of 3 x 32 x 32: 2 x 2 digits of random colours on a background. Each image shows 4
    bits; x and y share 3 bits of information.
    """
    from probes.samples import image_sources

    assert pools
    source = image_sources.digit_grid(pools, 2, 2, 3 * BIT, 1, True, True)
    return source if name == MAPS[0] else image_sources.mapped(source, getattr(image_sources, name))


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    if any(task.mnist for task in options.tasks) and not (options.root / "MNIST/raw").is_dir():
        raise no_mnist(options.root)
    from core.console import plain_console
    from core.run.folder import make_folder

    make_folder(options.out / "rows", "--out", "name another")
    digits = read_pools(options.root) if any(task.mnist for task in options.tasks) else None
    console, began = plain_console(), time.monotonic()
    rows: list[dict[str, Any]] = []
    try:
        measure_all(options, digits, rows, console)
    finally:  # Ctrl-C leaves the page of the rows that are done
        if rows:
            page = write(options, rows, console)
            console.print(f"{time.monotonic() - began:.0f} s: {page}, .png and .json")


def measure_all(
    options: argparse.Namespace,
    digits: "Pools | None",
    rows: list[dict[str, Any]],
    console: "Console",
) -> None:
    """Add a row for each number of pairs and source, and say how much time is left."""
    from core.run.progress import duration
    from probes.samples import image_truth

    plan = [(n, task) for n in options.pairs for task in options.tasks]
    left, spent, worked = sum(_cost(n, task) for n, task in plan), 0.0, 0.0
    for n, task in plan:
        row, seconds = measured(task, n, digits, options)
        rows.append(row)
        left -= _cost(n, task)
        if seconds:
            spent, worked = spent + seconds, worked + _cost(n, task)
        console.print(f"{image_truth.line(row)}{'' if seconds else ' · measured before'}")
        if worked and left:
            ahead = duration(spent / worked * left)
            console.print(f"  {len(rows)} of {len(plan)} rows, about {ahead} left")


def write(options: argparse.Namespace, rows: list[dict[str, Any]], console: "Console") -> Path:
    """Write the page, the picture and the numbers of these rows, in the order of the sources."""
    from probes.report import image_figures, store
    from probes.samples import image_truth

    order = {task.name: place for place, task in enumerate(options.tasks)}
    rows = sorted(rows, key=lambda row: (order[row["source"]], row["pairs"]))
    page = options.out / "image_truth.md"
    found = {"rows": rows, "seed": options.seed, "about": ABOUT, "picture": "image_truth.png"}
    image_figures.draw(rows, page.with_suffix(".png"))
    store.write_json(page.with_suffix(".json"), found)
    store.write_text(page, image_truth.markdown(found))
    console.print(image_truth.summary(found))
    return page


ABOUT = (
    "`twobounds image-truth` makes pairs of images whose mutual information is known. *Digits* are"
    " grids of MNIST's digits 0 and 1, of 16 x 16 pixels each. A grid shows bits; the bits of y are"
    " those of x after a binary symmetric channel. The images of x and y come from disjoint pools."
    " *Digits on backgrounds* are the same grids on random backgrounds. *Cells of 3 bits* show the"
    " digits 0 to 7. In the tables, the last number of such a name is the information in bits:"
    " *cells of 3 bits 6 bits* are cells of 3 bits whose pairs share 6 bits. *Sprites* show M"
    " contents, so the information is log M nats. *Coloured digits* are grids of 2 x 2 digits,"
    " before and after a map that can be inverted: an increasing function of every pixel value"
    " (bent), a permutation of all pixel values (permuted), or an orthogonal map of the pixels of"
    " each channel (mixed). In the tables, *sample's own* is the mean of"
    " log p(x, y) / (p(x) p(y)) over the pairs."
)


def _cost(n: int, task: Task) -> float:
    """About proportional to the time of a row. The constant stands for the training steps that a
    critic takes even if the sample is small.
    """
    return task.cost * (4000 + n)


def measured(
    task: Task, n: int, digits: "Pools | None", options: argparse.Namespace
) -> tuple[dict[str, Any], float]:
    """A row, and the seconds that it took; 0 if it was kept."""
    from core.run.rows import name_of
    from probes.report import store
    from probes.samples import image_truth
    from scripts.image_peers import peers

    began, source = time.monotonic(), task.make(digits)
    pairs = source.draw(n, options.seed)
    key = image_truth.key_of(task.name, pairs, options.seed)
    path = options.out / "rows" / f"{name_of(key)}.json"
    if (row := kept(path, key)) is not None:
        return row, 0.0
    row = {"source": task.name, "kind": task.kind}
    row |= image_truth.measure(task.name, source, pairs, options.seed)
    row["peers"] = peers(pairs.x, pairs.y, options.seed)
    store.write_json(path, {"key": key, "row": row})
    return row, time.monotonic() - began


def kept(path: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """The row of a file if it was measured under this key; None if not, or if damaged."""
    try:
        held = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    row = held.get("row") if isinstance(held, dict) and held.get("key") == key else None
    return row if isinstance(row, dict) else None


def read_pools(root: Path) -> "Pools":
    """The digits of MNIST's train and test files; `UserError` if they are not there."""
    import torch

    from core.data.readers import open_official
    from probes.samples.image_sources import pools

    try:
        parts = [open_official("mnist", str(root), False, split) for split in ("train", "test")]
    except UserError:
        raise no_mnist(root) from None
    images, labels = (
        torch.cat([getattr(part, key) for part in parts]) for key in ("data", "targets")
    )
    return pools(images.numpy(), labels.numpy())


def no_mnist(root: Path) -> UserError:
    return UserError(
        f"--root: {root} does not hold MNIST (a folder MNIST/raw with its four files); name another"
        f" folder, let `{command('pretrain')} simclr_mnist data.download=true data.root=FOLDER`"
        " fetch it, or choose --only sprites, which needs no MNIST"
    )


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("image_truth", __doc__)
    option(given, "--root", "the folder that holds MNIST/raw, as data.root", Path("data"))
    option(given, "--pairs", "numbers of pairs, separated by commas", ",".join(map(str, PAIRS)))
    option(given, "--only", "words, separated by commas: only sources with one of them in the name")
    switch(given, "--quick", "one source of each kind, with 500 pairs (about a minute a source)")
    option(given, "--seed", "seed of the pairs, the folds and the critics", 0)
    option(given, "--out", "folder of the page and of what was measured", Path("runs/image_truth"))
    options = given.parse_args(argv)
    require_seeds(seed=options.seed)
    options.pairs = pair_counts(options.pairs)
    found = tasks()
    if options.quick:
        options.pairs = [500]
        found = [next(t for t in found[::-1] if t.kind == kind) for kind in _kinds(found)]
    words = options.only.split(",") if options.only else [""]
    options.tasks = [task for task in found if any(word in task.name for word in words)]
    if not options.tasks:
        names = ", ".join(task.name for task in found)
        raise UserError(f"--only: no source has {options.only} in its name; there are {names}")
    return options


def _kinds(found: list[Task]) -> list[str]:
    return list(dict.fromkeys(task.kind for task in found))


if __name__ == "__main__":
    main()
