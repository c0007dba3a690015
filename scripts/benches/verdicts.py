"""Does the verdict on a value tell the truth? The bench draws sources of known information by
--seed: a third are vectors, a third pictures, and a third codes of encoders, half of them
undertrained.

    python -m scripts.benches.verdicts                       # 60 sources, about 40 CPU-minutes
    python -m scripts.benches.verdicts --seed 7 --sources 30 --pairs 1000,2000 --out runs/verdicts7

The information of each source is estimated by InfoNCE with the default settings. The last lines
count two groups of values: those that are more than 10 % short of the truth, and those that are at
most 5 % below it or above it. They also say how many values of each group were called converged. If
a call is interrupted, the same call continues where it stopped.

The truth of vectors and pictures is exact. For codes it is an upper limit: two pictures of sprites
with M contents share log M nats, and the codes of these pictures share at most as much.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import ndtr
from torch import Tensor

from contrastive.simclr import SimCLR, SimCLRConfig
from core.batch import Batch
from core.console import plain_console
from core.data.sprites import SpritesConfig, render
from core.errors import UserError, exit_cleanly
from core.randomness import KeyedRNG
from core.run.folder import make_folder
from core.run.progress import duration
from probes.report.store import write_json
from probes.samples import benchmark_sources as known
from probes.samples.calibration import TRUSTED, verdicts
from probes.samples.estimate import estimate
from scripts.benches.kept import earlier, parser
from scripts.shared import option, pair_counts, require_seeds

KINDS = ("vectors", "pictures", "codes")
PAIRS = "5000,10000"
SIDE = 16  # pixels of a picture
BATCH, RATE = 64, 3e-3
FORMAT = 3  # increase it if the code computes other numbers for the same source


class Source(NamedTuple):
    """`draw` gives x, y and the truth in nats."""

    name: str
    kind: str
    draw: Callable[[], tuple[Any, Any, float]]


def sources(count: int, seed: int, pairs: Sequence[int]) -> list[Source]:
    """`count` sources, of the three kinds in turn, each with one of the numbers of `pairs`."""
    random = np.random.default_rng(seed)
    makers = (_vectors, _pictures, _codes)
    return [
        makers[number % 3](number, int(random.choice(pairs)), random) for number in range(count)
    ]


def _vectors(number: int, n: int, random: np.random.Generator) -> Source:
    seed = int(random.integers(2**31))
    d, nats = int(random.choice([1, 2, 5, 20])), float(random.uniform(0.2, 3))
    base, wide = known.gaussian(nats, d), known.gaussian(nats, max(d, 2), 2)
    line, freedom = known.gaussian(nats, 1), int(random.integers(1, 5))
    width, letters = float(random.uniform(0.05, 1)), int(random.choice([2, 4, 16]))
    families = {
        f"gaussian {d} x {d}": base,
        f"half-cube of gaussian {d} x {d}": known.mapped(base, known.half_cube, known.wiggly),
        "swiss roll": known.mapped(line, known.swiss_roll, ndtr),
        f"spiral {max(d, 2)} x {max(d, 2)}": known.mapped(wide, known.spiral, known.spiral),
        f"student of {freedom} degrees, {d} x {d}": known.student(nats / 4, d, freedom),
        f"additive uniform {width:.2f}": known.additive_uniform(width),
        f"channel of {letters} letters": known.channel(letters, float(random.uniform(0.05, 0.4))),
        f"{4 * letters} contents on a circle": known.contents(4 * letters),
    }
    name = list(families)[number // 3 % len(families)]

    def draw() -> tuple[Any, Any, float]:
        made = families[name](n, seed)
        return made.x, made.y, made.information

    return Source(f"{name}, n = {n:,}", "vectors", draw)


def _sprites(random: np.random.Generator) -> SpritesConfig:
    sizes = {"shapes": (1, 2, 4), "colours": (2, 4), "grid": (1, 2)}
    return SpritesConfig(
        sizes=1, **{key: int(random.choice(values)) for key, values in sizes.items()}
    )


def _pictures(number: int, n: int, random: np.random.Generator) -> Source:
    """Pairs of sprites. A symmetric channel turns the content of the first into the second's."""
    seed, sprites = number, _sprites(random)
    m, error = sprites.combinations, float(random.choice([0.0, 0.1, 0.3]))
    draws = np.random.default_rng(int(random.integers(2**31)))

    def draw() -> tuple[Any, Any, float]:
        made = known.channel(m, error)(n, int(draws.integers(2**31))) if error else None
        first = draws.integers(m, size=n) if made is None else made.x[:, 0].astype(np.int64)
        second = first if made is None else made.y[:, 0].astype(np.int64)
        sides = (_rendered(first, seed, 0, sprites), _rendered(second, seed, 1, sprites))
        small = (F.avg_pool2d(side.float(), side.shape[2] // SIDE) for side in sides)
        x, y = (side.round().to(torch.uint8).numpy() for side in small)
        return x, y, math.log(m) if made is None else made.information

    return Source(f"sprites of {m} contents, error {error:g}, n = {n:,}", "pictures", draw)


def _rendered(content: np.ndarray, seed: int, view: int, sprites: SpritesConfig) -> Tensor:
    """A picture of each content (a number from 0 to M - 1). `seed` and `view` determine what the
    content leaves open (the nuisance), such as rotation and brightness.
    """
    columns = np.unravel_index(content, tuple(sprites.factors.values()))
    factors = torch.from_numpy(np.stack(columns, 1).astype(np.int64))
    return render(factors, KeyedRNG(seed, 0).fork(f"view{view}"), sprites)


def _codes(number: int, n: int, random: np.random.Generator) -> Source:
    """Codes of two views by SimCLR after few steps or many. At least 16 contents: with fewer, most
    negatives of a batch have the content of the positive, and the codes do not learn it.
    """
    shapes, colours = (int(random.choice([2, 4])) for _ in range(2))
    sprites = SpritesConfig(shapes=shapes, colours=colours, grid=2, sizes=1)
    seed = int(random.integers(2**31))
    steps = int(random.choice([1, 3, 8] if number // 3 % 2 else [200, 400]))

    def draw() -> tuple[Any, Any, float]:
        method, contents = _trained(sprites, steps, seed), np.random.default_rng(seed)
        content = contents.integers(sprites.combinations, size=n)
        with torch.no_grad():
            views = [_rendered(content, seed, view, sprites) for view in (2, 3)]
            x, y = (method.head(method.backbone(view)).double().numpy() for view in views)
        return x, y, math.log(sprites.combinations)

    name = f"SimCLR, {sprites.combinations} contents, {steps} steps, n = {n:,}"
    return Source(name, "codes", draw)


def _trained(sprites: SpritesConfig, steps: int, seed: int) -> SimCLR:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        method = SimCLR(SimCLRConfig(projection=32, hidden=128), (3, 32, 32))
        optimizer = torch.optim.AdamW(method.parameters(), RATE)
        contents = np.random.default_rng([seed, 1])
        for step in range(steps):
            content = contents.integers(sprites.combinations, size=BATCH)
            views = tuple(_rendered(content, seed + step + 1, view, sprites) for view in (0, 1))
            rng = KeyedRNG(seed, step)
            label = torch.from_numpy(content)[:, None]
            output = method(Batch(views, label, torch.arange(BATCH), rng))
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
    return method.eval()


def measured(source: Source, seed: int) -> dict[str, Any]:
    began = time.process_time()
    x, y, truth = source.draw()
    found = estimate(x, y, ("infonce",), seed, source.name)
    row = {"source": source.name, "kind": source.kind, "truth": truth}
    row |= {key: found[key] for key in ("pairs", "estimators", "sweep", "doubling", "calibration")}
    return row | {"seconds": time.process_time() - began}


def summary(rows: list[dict[str, Any]]) -> str:
    """The counts, for all sources and for each kind."""
    lines = []
    for kind in ("all", *KINDS):
        of = [row for row in rows if kind in ("all", row["kind"])]
        found, entries = verdicts(of), [(row["estimators"]["infonce"], row["truth"]) for row in of]
        high = sum(entry["value"] > truth + TRUSTED * entry["error"] for entry, truth in entries)
        lines.append(
            f"{kind}: {len(of)} sources. Values more than 10 % short of the truth:"
            f" {found['short']}, of which converged: {len(found['short_converged'])}. Values at"
            f" most 5 % below the truth or above it: {found['near']}, of which converged:"
            f" {found['near_converged']}."
            f" Values more than {TRUSTED:g} standard errors above the truth: {high}"
        )
    return "\n".join(lines)


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    make_folder(options.out, "--out", "name another")
    path, console = options.out / "verdicts.json", plain_console()
    call = {key: getattr(options, key) for key in ("sources", "seed", "pairs")}
    call |= {"format": FORMAT}
    rows = earlier(path, call)
    wanted, began = sources(options.sources, options.seed, options.pairs), time.monotonic()
    first = len(rows)
    for number, source in enumerate(wanted[first:], first + 1):
        rows.append(measured(source, options.seed))
        write_json(path, call | {"rows": rows})
        row, each = rows[-1], (time.monotonic() - began) / (number - first)
        entry = row["estimators"]["infonce"]
        console.print(
            f"{number}/{len(wanted)} {row['source']}: {entry['value']:.3f} of {row['truth']:.3f}"
            f" nats, {entry['verdict']}; {duration(each * (len(wanted) - number))} left"
        )
    console.print(summary(rows))
    console.print(f"every number: {path}")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("verdicts", __doc__)
    option(given, "--sources", "number of sources", 60)
    option(given, "--pairs", "each source has one of these numbers of pairs", PAIRS)
    option(given, "--seed", "seed of the sources and of the estimates", 0)
    option(given, "--out", "folder of the results", Path("runs/verdicts"))
    options = given.parse_args(argv)
    require_seeds(seed=options.seed)
    options.pairs = pair_counts(options.pairs)
    if options.sources < 1:
        raise UserError(f"--sources: must be 1 or more, got {options.sources}")
    return options


if __name__ == "__main__":
    main()
