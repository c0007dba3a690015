"""Do the 95% intervals cover the bound's own mean, and is a lower end above the true information?
The bench draws Gaussian pairs of known information again and again, scores them with a fixed
critic, and counts.

    python -m scripts.benches.intervals                        # 9 settings, about 7 CPU-minutes
    python -m scripts.benches.intervals --nats 12,25 --dimensions 50 --pairs 10000 --draws 100

A critic is the exact log density ratio ("exact"), this ratio times 1.15 or 1.3 ("steep",
"steeper") or 0.8 ("flat"), or the Gaussian critic of other pairs ("fitted"). The pairs are scored
in five folds, as `estimate` scores them. Alpha, and the constant that is added to a critic, are
chosen on other pairs.

"Plain" is the interval of the mean, without the allowance for pairs so rare that the sample has
none of them (`core.information.bounds.unseen`). The mean of a bound is its mean over all draws. For
NWJ and alpha it is also computed from positive pairs (`positive_side`), because few draws contain
the pairs that make up the mean of e^f. A mean over draws without such pairs is too large, so the
smaller of the two means is used. Finished settings are kept, so an interrupted call continues.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.console import plain_console
from core.errors import UserError, exit_cleanly
from core.information import bounds
from core.information.scores import Scores, paired
from core.run.folder import make_folder
from core.run.progress import duration
from probes.report.store import write_json
from probes.samples.benchmark_sources import correlation
from probes.samples.canonical import canonical
from probes.samples.centring import centring
from probes.samples.crossfit import FOLDS, MOST_CHECKED, choices
from probes.samples.estimate import UNSEEN
from scripts.benches.kept import earlier, parser
from scripts.shared import option, pair_counts, require_seeds

SLOPES = {"exact": 1.0, "steep": 1.15, "steeper": 1.3, "flat": 0.8}
CRITICS = (*SLOPES, "fitted")
BOUNDS = ("infonce", "alpha", "nwj")
FITTED = 0.6  # the share of the n pairs on which a critic of `estimate` is trained
FORMAT = 1  # increase it if the code computes other numbers for the same setting

Codes = tuple[Tensor, Tensor]
Critic = Callable[[Tensor, Tensor], Codes]


class Setting(NamedTuple):
    nats: float
    critic: str


class Pairs:
    """Pairs of standard normal vectors of d dimensions with `nats` of information."""

    def __init__(self, nats: float, d: int, seed: int):
        self.nats, self.d = nats, d
        self.rho = correlation(nats, d)
        self.random = torch.Generator().manual_seed(seed)

    def draw(self, n: int) -> Codes:
        x, noise = (
            torch.randn(n, self.d, generator=self.random, dtype=torch.float64) for _ in "xy"
        )
        return x, self.rho * x + math.sqrt(1 - self.rho**2) * noise

    def codes(self, x: Tensor, y: Tensor) -> Codes:
        """Codes whose inner product is log p(x, y) / (p(x) p(y))."""
        variance = 1 - self.rho**2
        squares = [-(self.rho**2) / (2 * variance) * s.square().sum(1, True) for s in (x, y)]
        one = torch.ones_like(squares[0])
        query = torch.cat([x * self.rho / variance, squares[0] + self.nats, one], 1)
        return query, torch.cat([y, one, squares[1]], 1)


def critic_of(setting: Setting, source: Pairs, n: int) -> tuple[Critic, float]:
    """The critic of a setting, and alpha. Alpha and the critic's constant are chosen on other
    pairs, as many as `cross_fit` uses for this choice.
    """

    def scaled(x: Tensor, y: Tensor) -> Codes:
        query, key = source.codes(x, y)
        return SLOPES[setting.critic] * query, key

    read: Critic = scaled
    if setting.critic == "fitted":
        count = int(FITTED * n)
        x, y = (side.numpy() for side in source.draw(count + count // 5))
        fit = canonical(x[:count], y[:count], x[count:], y[count:])

        def read(x: Tensor, y: Tensor) -> Codes:
            query, key = fit.codes(x.numpy(), y.numpy())
            return torch.from_numpy(query), torch.from_numpy(key)

    chosen = read(*source.draw(min(MOST_CHECKED, n // FOLDS)))
    constant = 0.0 if setting.critic == "exact" else -centring(*chosen)

    def centred(x: Tensor, y: Tensor) -> Codes:
        query, key = read(x, y)
        one = torch.ones_like(query[:, :1])
        return torch.cat([query, constant * one], 1), torch.cat([key, one], 1)

    return centred, bounds.best_alpha([paired(*chosen).shifted(constant)], choices(n))


def positive_side(scores: Scores, ratio: Tensor, alpha: float) -> Tensor:
    """Terms [n] whose mean is that of the alpha-bound (alpha = 0: NWJ), without its heavy tail.

    The alpha-bound is

        1 + E[f - log(alpha M + 1 - alpha)] - E'[e^f / (alpha M' + 1 - alpha)]

    M is the mean of e^f over a pair's own score and its negatives, M' that of an independent pair.
    E is over positive pairs, E' over independent ones. In E', a positive pair with the weight
    p(x) p(y) / p(x, y) = e^-ratio replaces an independent one:

        1 + f - log(alpha M + 1 - alpha) - e^(f - ratio) / (alpha M + 1 - alpha)

    ratio: log p(x, y) / (p(x) p(y)) of the pairs [n].
    """
    count = math.log(scores.negatives)
    mean = torch.logaddexp(scores.own, scores.rest) - count
    mixed = (alpha * mean.exp() + 1 - alpha).log()
    return 1 + scores.own - mixed - (scores.own - ratio - mixed).exp()


def one_draw(source: Pairs, critic: Critic, alpha: float, n: int) -> dict[str, dict[str, float]]:
    """Value, error, allowance and (for alpha and NWJ) the mean of each bound, for one sample."""
    parts: dict[str, list[bounds.Bound]] = {key: [] for key in BOUNDS}
    means: dict[str, list[Tensor]] = {"alpha": [], "nwj": []}
    scored = []
    for fold in np.array_split(np.arange(n), FOLDS):
        x, y = source.draw(len(fold))
        scores, (query, key) = paired(*critic(x, y)), source.codes(x, y)
        parts["infonce"].append(bounds.infonce_symmetric(scores))
        parts["alpha"].append(bounds.alpha_bound(scores, alpha))
        parts["nwj"].append(bounds.nwj(scores))
        for name, weight in (("alpha", alpha), ("nwj", 0.0)):
            means[name].append(positive_side(scores, (query * key).sum(1), weight))
        scored.append(scores)
    allowed = {"alpha": bounds.unseen(scored, [alpha] * FOLDS), "nwj": bounds.unseen(scored)}
    row = {}
    for name, found in parts.items():
        terms, influence = (torch.cat(side) for side in zip(*found, strict=True))
        value = bounds.interval(terms, influence)
        row[name] = {"value": value.mean, "error": value.error, "unseen": allowed.get(name, 0.0)}
        if name in means:
            row[name]["mean"] = torch.cat(means[name]).mean().item()
    return row


def measured(setting: Setting, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    began = time.process_time()
    source = Pairs(setting.nats, options.dimensions, seed)
    critic, alpha = critic_of(setting, source, options.pairs)
    draws = [one_draw(source, critic, alpha, options.pairs) for _ in range(options.draws)]
    row = {**setting._asdict(), "alpha": alpha}
    row |= {name: judged(name, [draw[name] for draw in draws], setting.nats) for name in BOUNDS}
    return row | {"seconds": time.process_time() - began}


def mean_of(draws: list[dict[str, float]]) -> float:
    """The mean of a bound: over its values, or from positive pairs if that is smaller."""
    ways = ([float(draw[key]) for draw in draws if key in draw] for key in ("value", "mean"))
    return min(float(np.mean(way)) for way in ways if way)


def judged(name: str, draws: list[dict[str, float]], truth: float) -> dict[str, float]:
    """The mean of a bound, and shares of the draws that `estimate` would report: how often the
    interval contains the mean ("covers"), how often the plain interval does, and how often the
    lower end is above the truth. `estimate` leaves out NWJ if too much of its mean is unseen.
    """
    kept = [draw for draw in draws if name != "nwj" or draw["unseen"] <= UNSEEN]
    mean = mean_of(draws)
    row = {"mean": mean, "left_out": 1 - len(kept) / len(draws)}
    if not kept:
        return row
    value, error, unseen = (
        np.array([draw[key] for draw in kept]) for key in ("value", "error", "unseen")
    )
    low, high = value - 1.96 * error, value + 1.96 * error
    return row | {
        "covers": float(np.mean((low - unseen <= mean) & (mean <= high))),
        "plain": float(np.mean((low <= mean) & (mean <= high))),
        "above": float(np.mean(low - unseen > truth)),
    }


def said(row: dict[str, Any]) -> str:
    words = []
    for name in BOUNDS:
        found = row[name]
        if "covers" not in found:
            words.append(f"{name} {found['mean']:.3f}: left out in all draws")
            continue
        less, draws = "", "the draws"
        if found["left_out"]:
            less, draws = f"left out in {found['left_out']:.0%} of the draws; ", "the other draws"
        words.append(
            f"{name} {found['mean']:.3f}: {less}the interval contains this mean in"
            f" {found['covers']:.0%} of {draws} (plain interval: in {found['plain']:.0%}); its"
            f" lower end is above the truth in {found['above']:.0%}"
        )
    return f"{row['nats']:g} nats, {row['critic']} critic · {' · '.join(words)}"


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    make_folder(options.out, "--out", "name another")
    path, console = options.out / "intervals.json", plain_console()
    call = {key: getattr(options, key) for key in ("pairs", "dimensions", "draws", "seed")}
    call |= {"nats": options.nats, "critics": options.critics, "format": FORMAT}
    rows = earlier(path, call)
    wanted = [Setting(nats, critic) for nats in options.nats for critic in options.critics]
    began, first = time.monotonic(), len(rows)
    for number, setting in enumerate(wanted[first:], first + 1):
        rows.append(measured(setting, options, options.seed + number))
        write_json(path, call | {"rows": rows})
        each = (time.monotonic() - began) / (number - first)
        left = duration(each * (len(wanted) - number))
        console.print(f"{number}/{len(wanted)} {said(rows[-1])}; {left} left")
    for name in BOUNDS:
        shown = [row[name] for row in rows if row[name]["left_out"] < 0.5]
        if not shown:
            console.print(f"{name}: left out in most draws of all settings")
            continue
        least, above = min(row["covers"] for row in shown), max(row["above"] for row in shown)
        console.print(
            f"{name}, {len(shown)} settings: intervals cover the bound's mean in {least:.0%} of the"
            f" draws or more; a lower end is above the truth in {above:.0%} or less"
        )
    console.print(f"every number: {path}")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("intervals", __doc__)
    option(given, "--nats", "the true information, numbers separated by commas", "6,10,20")
    option(given, "--critics", f"any of {', '.join(CRITICS)}", "exact,steep,fitted")
    option(given, "--pairs", "pairs of each draw", 5000)
    option(given, "--dimensions", "dimensions of x and of y", 100)
    option(given, "--draws", "draws of each setting", 100)
    option(given, "--seed", "seed of the draws", 0)
    option(given, "--out", "folder of the results", Path("runs/intervals"))
    options = given.parse_args(argv)
    require_seeds(seed=options.seed)
    (options.pairs,) = pair_counts(str(options.pairs))
    options.nats, options.critics = _nats(options.nats), options.critics.split(",")
    if unknown := [word for word in options.critics if word not in CRITICS]:
        raise UserError(f"--critics: there is no '{unknown[0]}'; take any of {', '.join(CRITICS)}")
    for key, least in (("dimensions", 1), ("draws", 2)):
        if getattr(options, key) < least:
            raise UserError(f"--{key}: must be {least} or more, got {getattr(options, key)}")
    return options


def _nats(text: str) -> list[float]:
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        raise UserError(
            f"--nats: give numbers separated by commas, such as 6,10; got '{text}'"
        ) from None
    if not all(0 < value < 100 for value in found):
        raise UserError(f"--nats: must be above 0 and below 100, got '{text}'")
    return found


if __name__ == "__main__":
    main()
