"""Worked example: what noise in training does to I(S; W) and to the generalisation gap.

n = samples, d = features, W = weights, S = the samples that they were trained on.
"""

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm

from core.information import atoms
from core.information.generalisation import expected_gap

Array = NDArray[np.float64]

SAMPLES, FEATURES, USEFUL, AGREE = 200, 50, 10, 0.6
NOISES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)  # s: the deviation of W's noise is s / sqrt n
KEPT = (1.0, 0.8, 0.5, 0.2, 0.06, 0.015)  # shares of the features that dropout keeps
DRAWS = 400  # simulated training sets


class World(NamedTuple):
    """Features x in {-1, 1}^d that agree with the label y with probabilities p [d], and n samples
    of them. The weights are those after one step of gradient descent of logistic regression from 0,
    up to a factor that changes no prediction:

        W = sum_i y_i x_i * mask_i / n + noise
    """

    n: int
    p: Array  # [d]


class Level(NamedTuple):
    """One strength of noise. The noise that is added to W has the deviation s / sqrt n, with
    s = `noise`. Dropout keeps each feature of each sample with probability `kept`.
    """

    noise: float
    kept: float


class Found(NamedTuple):
    """The results of a level. Information is in nats, errors are shares."""

    information: float  # I(S; W)
    of_one: float  # I(z_i; W) for one sample
    train: float
    test: float
    deviation: float  # of the mean gap, over training sets

    @property
    def gap(self) -> float:
        return self.test - self.train


def noise() -> Iterator[str]:
    """Gradient noise, and dropout."""
    yield f"{SAMPLES} samples, {FEATURES} features of -1 or 1; {USEFUL} of them agree with the"
    yield f"   label in {100 * AGREE:.0f} % of samples, the others in half of them"
    yield f"gaps and errors in %, means over {DRAWS} training sets; I in nats, exact"
    head = "I(S;W)  gap at most  by I(z;W)  gap         train  test"
    for title, levels in families(SAMPLES, DRAWS).items():
        yield f"{title:<22}{head}"
        for level, found in levels:
            bound, single = bounds(found, SAMPLES)
            shown = level.noise if title.startswith("gradient") else level.kept
            yield (
                f"{shown:<22g}{found.information:6.2f}  {100 * bound:11.1f}  {100 * single:9.1f}"
                f"  {100 * found.gap:4.1f} +- {100 * found.deviation:3.1f}"
                f"  {100 * found.train:5.1f}  {100 * found.test:4.1f}"
            )
    yield "a bound of 50 % or more is vacuous: guessing has an error of 50 %"


def noise_picture(path: Path) -> None:
    """Plot the gap, its bounds and the errors against I(S; W)."""
    from probes.report import figures

    with figures.picture(path, 1, 2, figsize=(9.6, 4.0)) as (_, (left, right)):
        for number, (title, levels) in enumerate(families(SAMPLES, DRAWS).items()):
            colour, marker = figures.COLOURS[number], figures.MARKERS[number]
            found = [one for _, one in levels]
            x, name = [one.information for one in found], title.split(",")[0]
            look = {"color": colour, "marker": marker, "ms": 7 - 2 * number}
            gaps = [100 * one.gap for one in found]
            left.errorbar(x, gaps, [200 * one.deviation for one in found], label=name, **look)
            right.plot(x, [100 * one.test for one in found], label=f"{name}: test", **look)
            right.plot(x, [100 * one.train for one in found], "--", label="training", **look)
        for kind, label in enumerate(("bound by I(S; W)", "bound by I(z; W) of one sample")):
            tops = [100 * bounds(one, SAMPLES)[kind] for one in found]
            left.plot(x, tops, ("--", ":")[kind], color=figures.BLACK, label=label)
        left.axhline(50, color=figures.GREY, lw=0.8)
        across = left.get_yaxis_transform()
        left.text(0.02, 52, "vacuous above this line", transform=across, color=figures.GREY, size=8)
        gap = "test error - training error, %"
        left.set(xscale="log", yscale="log", xlabel="I(S; W), nats", ylabel=gap)
        left.set_title("More information in the weights, larger gap")
        right.set(xscale="log", xlabel="I(S; W), nats", ylabel="error, %")
        right.set_title("Much noise learns nothing")
        left.set_yticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
        for axes, place in ((left, "lower right"), (right, "upper right")):
            axes.minorticks_off()
            axes.set_xticks([1, 10, 100], ["1", "10", "100"])
            axes.legend(loc=place, frameon=False, fontsize=8.5)


@functools.cache
def families(n: int, draws: int) -> dict[str, list[tuple[Level, Found]]]:
    """Each level of gradient noise, and each of dropout."""
    p = np.full(FEATURES, 0.5)
    p[:USEFUL] = AGREE
    world = World(n, p)
    kinds = {
        "gradient noise, s": [Level(s, 1.0) for s in NOISES],
        "dropout, share kept": [Level(0.0, q) for q in KEPT],
    }
    return {
        title: [(level, measured(world, level, draws)) for level in levels]
        for title, levels in kinds.items()
    }


def bounds(found: Found, n: int) -> tuple[float, float]:
    """The largest mean gap that I(S; W) allows, and that the information of one sample allows."""
    return expected_gap(found.information, n), expected_gap(found.of_one, 1)


def measured(world: World, level: Level, draws: int, seed: int = 0) -> Found:
    """The exact information of one level, with errors of simulated training sets."""
    values, counts = np.unique(world.p, return_counts=True)
    exact = np.array([information(world.n, p, level) for p in values])
    whole, one = counts @ exact
    train, test = simulated(world, level, draws, seed)
    gap = test - train
    deviation = gap.std(ddof=1) / math.sqrt(draws)
    return Found(float(whole), float(one), train.mean(), test.mean(), float(deviation))


def information(n: int, p: float, level: Level) -> tuple[float, float]:
    """I(S; W) and I(z_i; W) of one feature, in nats.

    W depends on S only through N, the number of samples in which feature and label agree. So all
    that is needed is the table P(N, W); with Gaussian noise, its values of W are a fine grid.
    Features are independent, so their information adds up.
    """
    of_n, given = binom.pmf(np.arange(n + 1), n, p), _conditional(n, level)
    table = of_n[:, None] * given  # P(N, W) [n + 1, values]
    agrees = np.arange(n + 1) / n  # P(sample i agrees | N)
    single = np.stack([agrees @ table, (1 - agrees) @ table])
    return atoms.mutual_information(table), atoms.mutual_information(single)


def _conditional(n: int, level: Level) -> Array:
    """P(n W | N) [n + 1, values]. n W is a sum: the number of kept agreements, minus the number of
    kept disagreements, plus Gaussian noise of deviation s sqrt n. With noise, the values are a fine
    grid.
    """
    counts = [binom.pmf(np.arange(n + 1), count, level.kept) for count in range(n + 1)]
    sums = np.array([np.convolve(counts[k], counts[n - k][::-1]) for k in range(n + 1)])
    if level.noise == 0:
        return sums
    deviation, places = level.noise * math.sqrt(n), np.arange(-n, n + 1)
    grid = np.arange(-n - 7 * deviation, n + 7 * deviation, deviation / 16)
    spread = norm.pdf(grid, places[:, None], deviation) * deviation / 16
    made = sums @ spread
    return np.asarray(made / made.sum(1, keepdims=True))


def simulated(world: World, level: Level, draws: int, seed: int) -> tuple[Array, Array]:
    """Errors on n training samples and on n new ones, for each training set."""
    rng, errors = np.random.default_rng(seed), np.zeros((2, draws))
    for draw in range(draws):
        train, test = np.where(rng.random((2, world.n, len(world.p))) < world.p, 1.0, -1.0)
        kept = rng.random(train.shape) < level.kept
        weights = (train * kept).sum(0)
        weights += level.noise * math.sqrt(world.n) * rng.normal(size=len(weights))
        for part, samples in enumerate((train, test)):
            margins = samples @ weights
            errors[part, draw] = np.mean((margins < 0) + 0.5 * (margins == 0))
    return errors[0], errors[1]
