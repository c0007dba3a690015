"""Codecs of pixels: a decoder's parameters, rounded to a grid, become integer counts of the levels.

A codec has `rounded`, the one place where the networks' float64 numbers become integers, and `push`
and `pop`, which are exact inverses. Rounding costs less than 1e-4 nats per value.
n = values of a call, P = parameters of a value, K = levels (2 or 256).
"""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import UserError
from core.networks.discretized import LEVELS
from core.networks.likelihoods import Likelihood
from vae import exact
from vae.ans import Counts, Find, Stack

Ints = NDArray[Any]

BITS = 24
TOTAL = 1 << BITS  # all levels of a value together have this many counts
COARSE = BITS - 8  # the first guess of a level ignores so many lower bits of a count
LOGITS = 256  # steps of a logit
PORTION = 4096  # values whose tables are made at a time, so that they fit into a cache
MOST_LOGIT = 20  # a level that is less likely than e^-20 has one count


class PixelCodec(ABC):
    """Counts of the levels of values, given their rounded parameters [n, ...]."""

    levels: int

    def __init__(self, likelihood: Likelihood):
        self.likelihood = likelihood

    @abstractmethod
    def rounded(self, parameters: NDArray[np.float64], channel: Any) -> Ints:
        """float64 [n, P] to integers. `channel`: the channel of each value [n], or one for all."""

    @abstractmethod
    def intervals(self, levels: Ints, rounded: Ints) -> tuple[Counts, Counts]:
        """Start and freq of each level [n]."""

    @abstractmethod
    def finder(self, rounded: Ints) -> Find:
        """The function that finds levels for `Stack.pop`."""

    def push(self, stack: Stack, levels: Ints, rounded: Ints) -> None:
        stack.push(*self.intervals(levels, rounded), BITS)

    def pop(self, stack: Stack, rounded: Ints) -> Ints:
        return stack.pop(len(rounded), BITS, self.finder(rounded))

    def cost(self, levels: Ints, rounded: Ints) -> NDArray[np.float64]:
        """The bits [n] of the levels."""
        return BITS - np.log2(self.intervals(levels, rounded)[1].astype(np.float64))


class BernoulliCodec(PixelCodec):
    """Levels 0 and 1, from a logit."""

    levels = 2

    @cached_property
    def _black(self) -> Counts:
        """The number of counts of level 0, for each rounded logit."""
        logits = np.arange(-MOST_LOGIT * LOGITS, MOST_LOGIT * LOGITS + 1) / float(LOGITS)
        counts = np.rint(exact.sigmoid(-logits) * TOTAL)
        return np.clip(counts, 1, TOTAL - 1).astype(np.uint64)

    def rounded(self, parameters: NDArray[np.float64], channel: Any) -> Ints:
        return to_steps(parameters[:, 0], LOGITS, -MOST_LOGIT, MOST_LOGIT).astype(np.int32)

    def intervals(self, levels: Ints, rounded: Ints) -> tuple[Counts, Counts]:
        black = self._black[rounded + MOST_LOGIT * LOGITS]
        white = levels != 0
        return np.where(white, black, 0), np.where(white, TOTAL - black, black)

    def finder(self, rounded: Ints) -> Find:
        blacks = self._black[rounded + MOST_LOGIT * LOGITS]
        whites = np.uint64(TOTAL) - blacks

        def find(u: Counts, row: slice) -> tuple[Ints, Counts, Counts]:
            black = blacks[row]
            white = u >= black
            return white, black * white, np.where(white, whites[row], black)

        return find


class TableCodec(PixelCodec):
    """256 levels, from a row of cumulative counts [257] for each value."""

    levels = LEVELS

    @abstractmethod
    def cumulative(self, rounded: Ints) -> tuple[NDArray[np.uint32], Ints]:
        """A table [T, 257] and the row of each value [n]; row[0] = 0 and row[256] = 2^24."""

    def intervals(self, levels: Ints, rounded: Ints) -> tuple[Counts, Counts]:
        found = []
        for first in range(0, max(1, len(levels)), PORTION):
            table, rows = self.cumulative(rounded[first : first + PORTION])
            own = levels[first : first + PORTION].astype(np.int64)
            found.append((table[rows, own], table[rows, own + 1]))
        low, high = (np.concatenate(ends).astype(np.uint64) for ends in zip(*found, strict=True))
        return low, high - low

    def finder(self, rounded: Ints) -> Find:
        def find(u: Counts, row: slice) -> tuple[Ints, Counts, Counts]:
            table, rows = self.cumulative(rounded[row])
            return bounded(table, rows, bisected(table, rows, u))

        return find


class LogisticCodec(TableCodec):
    """A discretised logistic with one scale per channel. The table has a row for each rounded place
    of the logistic in each channel.
    """

    def __init__(self, likelihood: Likelihood):
        super().__init__(likelihood)
        logs = likelihood.log_scale.detach().double().cpu().clamp(min=likelihood.LEAST)
        self.scales = exact.exp(np.clip(logs.numpy().ravel(), likelihood.LEAST, 4.0))
        # number of steps in a unit of loc: the smallest power of two from 256 to 8,192 for which a
        # step is at most 1/16 of the smallest scale; 8,192 if there is none
        steps = 256
        while steps < 8192 and steps * self.scales.min() < 16:
            steps *= 2
        self.steps = steps

    @cached_property
    def _table(self) -> NDArray[np.uint32]:
        places = np.arange(-self.steps, self.steps + 1) / float(self.steps)
        edges = (2.0 * np.arange(1, LEVELS) - 1.0) / (LEVELS - 1) - 1.0
        parts = []
        for scale in self.scales:
            below = exact.sigmoid((edges - places[:, None]) / scale)
            parts.append(from_cdf(below))
        return np.concatenate(parts)

    def rounded(self, parameters: NDArray[np.float64], channel: Any) -> Ints:
        loc = np.tanh(parameters[:, 0])
        return to_steps(loc, self.steps, -1, 1) + self.steps + channel * (2 * self.steps + 1)

    def cumulative(self, rounded: Ints) -> tuple[NDArray[np.uint32], Ints]:
        return self._table, rounded

    @cached_property
    def _first(self) -> NDArray[np.uint8]:
        """For each row and each b = 0 ... 255, the level that owns the count 2^16 b, [T, 256]. For
        b = u >> 16, the same level nearly always owns u, too.
        """
        rows = np.arange(len(self._table), dtype=np.uint64)[:, None] << np.uint64(BITS)
        counts = np.arange(LEVELS, dtype=np.uint64) << np.uint64(COARSE)
        places = np.searchsorted((rows + self._table[:, :-1]).ravel(), rows + counts, "right")
        return (places - 1 - LEVELS * np.arange(len(rows))[:, None]).astype(np.uint8)

    def finder(self, rounded: Ints) -> Find:
        table, first = self._table, self._first

        def find(u: Counts, row: slice) -> tuple[Ints, Counts, Counts]:
            own = rounded[row]
            level = first[own, u >> np.uint64(COARSE)].astype(np.int64)
            far = np.nonzero(u >= table[own, level + 1])[0]
            level[far] = bisected(table, own[far], u[far])
            return bounded(table, own, level)

        return find


class CategoricalCodec(TableCodec):
    """256 logits per value."""

    def rounded(self, parameters: NDArray[np.float64], channel: Any) -> Ints:
        below = parameters.max(1, keepdims=True) - parameters
        return to_steps(below, LOGITS, 0, MOST_LOGIT).astype(np.int16)

    @cached_property
    def _weights(self) -> NDArray[np.int64]:
        steps = np.arange(MOST_LOGIT * LOGITS + 1) / -float(LOGITS)
        return np.rint(exact.exp(steps) * 2.0**30).astype(np.int64)

    def cumulative(self, rounded: Ints) -> tuple[NDArray[np.uint32], Ints]:
        weights = self._weights[rounded].cumsum(1)
        return from_weights(weights), np.arange(len(rounded))


class MixtureCodec(TableCodec):
    """A mixture of J discretised logistics: P = 3 J numbers (logits, places, log scales)."""

    PLACES, SCALES = 4096, 64

    def rounded(self, parameters: NDArray[np.float64], channel: Any) -> Ints:
        logits, loc, log_scale = np.split(parameters, 3, 1)
        spread = np.linspace(-1, 1, loc.shape[1])
        below = logits.max(1, keepdims=True) - logits
        lowest = int(self.likelihood.LEAST)
        return np.concatenate(
            [
                to_steps(below, LOGITS, 0, MOST_LOGIT),
                to_steps(loc + spread, self.PLACES, -8, 8),
                to_steps(log_scale - 2, self.SCALES, lowest, 8),
            ],
            1,
        )

    def cumulative(self, rounded: Ints) -> tuple[NDArray[np.uint32], Ints]:
        logits, loc, log_scale = np.split(rounded, 3, 1)
        edges = (2.0 * np.arange(1, LEVELS) - 1.0) / (LEVELS - 1) - 1.0
        weights = np.rint(exact.exp(logits / -float(LOGITS)) * 2.0**20).astype(np.int64)
        inverse = exact.exp(log_scale / -float(self.SCALES))
        total = np.zeros((len(rounded), LEVELS - 1), np.int64)
        for j in range(weights.shape[1]):
            t = (edges - (loc[:, j : j + 1] / float(self.PLACES))) * inverse[:, j : j + 1]
            share = np.floor(exact.sigmoid(t) * 2.0**30).astype(np.int64)
            total += (weights[:, j : j + 1] * share) >> 20
        whole = ((weights.sum(1, keepdims=True) << 30) >> 20) + weights.shape[1]
        return from_weights(np.concatenate([total, whole], 1)), np.arange(len(rounded))


KINDS: dict[str, type[PixelCodec]] = {
    "bernoulli": BernoulliCodec,
    "categorical": CategoricalCodec,
    "logistic": LogisticCodec,
    "logistic_mixture": MixtureCodec,
}


def pixel_codec(likelihood: Likelihood) -> PixelCodec:
    """The codec of a likelihood; `UserError` for one that has no probabilities of levels."""
    if likelihood.name not in KINDS:
        raise UserError(
            f"model.likelihood: {likelihood.name} is a density without probabilities of levels, so"
            f" images can not be coded without loss; use one of {', '.join(KINDS)}"
        )
    return KINDS[likelihood.name](likelihood)


def bisected(table: NDArray[np.uint32], rows: Ints, u: Counts) -> Ints:
    """The levels [m] that own the counts u [m] in these rows of a table."""
    level = np.zeros(len(u), np.int64)
    for step in (128, 64, 32, 16, 8, 4, 2, 1):
        level += step * (u >= table[rows, level + step])
    return level


def bounded(
    table: NDArray[np.uint32], rows: Ints, level: Ints
) -> tuple[Ints, Counts, Counts]:  # fmt: skip
    """Levels with their starts and freqs."""
    low = table[rows, level].astype(np.uint64)
    return level, low, table[rows, level + 1].astype(np.uint64) - low


def to_steps(x: NDArray[np.float64], steps: int, low: int, high: int) -> NDArray[np.int64]:
    """x as a whole number of steps of 1 / `steps`, within [low, high]."""
    return np.rint(np.clip(x, low, high) * float(steps)).astype(np.int64)


def from_cdf(below: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Probabilities P(level < k) for k = 1 ... 255, [n, 255], to cumulative counts [n, 257]. Each
    level gets at least one count.
    """
    inner = np.floor(below * float(TOTAL - LEVELS)).astype(np.uint32)
    inner += np.arange(1, LEVELS, dtype=np.uint32)
    return bordered(inner)


def from_weights(cumulative: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Cumulative whole weights [n, 256], at most 2^39, to cumulative counts [n, 257]."""
    inner = cumulative[:, :-1] * (TOTAL - LEVELS) // cumulative[:, -1:]
    return bordered((inner + np.arange(1, LEVELS)).astype(np.uint32))


def bordered(inner: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The columns [n, 255] with a column of 0 before them and a column of 2^24 after them."""
    return np.pad(inner, ((0, 0), (1, 1)), constant_values=((0, 0), (0, TOTAL)))


def to_array(x: torch.Tensor) -> NDArray[np.float64]:
    return x.detach().double().cpu().numpy()
