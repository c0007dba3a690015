"""An entropy coder that works as a stack: range asymmetric numeral systems (rANS) with many
interleaved lanes.

Duda 2013 (arXiv:1311.2540); interleaving: Giesen 2014 (arXiv:1402.3392). A symbol owns `freq` of
2^bits counts, from `start` on. When it is pushed, a head x becomes

    x' = floor(x / freq) 2^bits + start + x mod freq,

so log2 x' is about log2 x + bits - log2 freq. `pop` is the exact inverse. Counts are integers, so
all processors give the same result. n = symbols of a call, W = lanes. Row r of a call holds the
symbols r W ... r W + W - 1, one per lane.

A lane costs only a few bits: a new lane takes its head from content that is already on the stack
(`widen`), and heads are written with as few bits as possible (`heads_as_bytes`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Counts = NDArray[np.uint64]
# (u [m], the places of these m symbols in the call) -> their symbols, starts and freqs [m]
Find = Callable[[Counts, slice], tuple[NDArray[Any], Counts, Counts]]

WORD = np.uint64(32)  # bits that move between a head and the words at a time
LEAST = np.uint64(1 << 32)  # a head x lies in [2^32, 2^64)
# the first head; its lower bits are irregular, because the very first symbol is popped from them
FIRST = LEAST | np.uint64(0x9E3779B9)
MOST_LANES = 1024
# A lane costs about 7 bits of the file. BITS_A_LANE: a new lane saves enough time if the whole file
# has at least this many bits per lane. FILLED_FROM: a new lane can take its head from the stack if
# the present content has at least this many bits per lane.
BITS_A_LANE, FILLED_FROM = 2048, 256
UNIFORM = 24  # bits of a uniform symbol
MOST_BITS = 28  # largest `bits` of a call; with more, floor(x / freq) would lose bits


class Broken(Exception):
    """The words on the stack were not written by the encoder that the decoder assumes."""


class Stack:
    """The content consists of words, the newest last, and of W heads.

    If `pop` needs more words than there are, they come from a generator with a fixed seed. These
    words are the start-up bits of bits-back coding; `drawn` counts the words. A decoder ends with
    exactly these words on its stack (`is_start`).

    >>> stack, counts = Stack(), np.array([3, 5], dtype=np.uint64)
    >>> stack.push(np.array([0, 3], dtype=np.uint64), counts, bits=3)  # symbols of 3/8 and 5/8
    >>> def find(u, places):
    ...     one = u >= 3
    ...     return one, np.where(one, 3, 0).astype(np.uint64), np.where(one, 5, 3).astype(np.uint64)
    >>> stack.pop(2, 3, find).tolist(), stack.is_start()
    ([False, True], True)
    """

    def __init__(self, words: Words | None = None, heads: Counts | None = None):
        self.heads = np.array([FIRST]) if heads is None else heads.astype(np.uint64)
        self._words = np.empty(1024, np.uint32) if words is None else words.astype(np.uint32)
        self._size = 0 if words is None else len(words)
        self._seeded = np.random.Philox(key=0)
        self.drawn = 0

    @property
    def words(self) -> Words:
        return self._words[: self._size]

    @property
    def bits(self) -> float:
        """The bits of the content, start-up words included."""
        return 32.0 * self._size + float(np.log2(self.heads.astype(np.float64)).sum())

    def push(self, start: Counts, freq: Counts, bits: int, veil: Counts | None = None) -> None:
        """Push n symbols that own `freq` [n] counts from `start` [n] on, 0 < freq < 2^bits.

        A `veil` [n] of random numbers below 2^bits is combined with the counts by exclusive or.
        """
        width, n = len(self.heads), len(start)
        limit, shift = freq << np.uint64(64 - bits), np.uint64(bits)
        for first in range((n - 1) // width * width, -1, -width):
            row = slice(first, min(first + width, n))
            own = freq[row]
            x = self.heads[: len(own)]
            full = x >= limit[row]
            if full.any():
                self._append(x[full].astype(np.uint32))
                x = np.where(full, x >> WORD, x)
            times = x // own
            counts = (x - times * own) + start[row]
            counts = counts if veil is None else counts ^ veil[row]
            self.heads[: len(own)] = (times << shift) + counts

    def pop(self, n: int, bits: int, find: Find, veil: Counts | None = None) -> NDArray[Any]:
        """Pop n symbols. `find` gives the symbol that owns the count u, with its start and freq."""
        width, shift, mask = len(self.heads), np.uint64(bits), np.uint64((1 << bits) - 1)
        found = []
        for first in range(0, n, width):
            row = slice(first, min(first + width, n))
            x = self.heads[: row.stop - first]
            u = x & mask if veil is None else (x & mask) ^ veil[row]
            symbol, start, freq = find(u, row)
            x = (x >> shift) * freq + (u - start)
            empty = x < LEAST
            if count := int(np.count_nonzero(empty)):
                x[empty] = (x[empty] << WORD) | self._take(count)
            self.heads[: len(x)] = x
            found.append(symbol)
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def push_uniform(self, symbols: Counts, bits: int = UNIFORM) -> None:
        """Push symbols [n] of `bits` bits each."""
        shift = np.uint64(UNIFORM - bits)
        self.push(symbols << shift, np.full(len(symbols), np.uint64(1) << shift), UNIFORM)

    def pop_uniform(self, n: int, bits: int = UNIFORM) -> Counts:
        """Pop n symbols of `bits` bits each."""
        shift = np.uint64(UNIFORM - bits)
        size = np.uint64(1) << shift

        def find(u: Counts, row: slice) -> tuple[Counts, Counts, Counts]:
            symbol = u >> shift
            return symbol, symbol << shift, np.full(len(u), size)

        return self.pop(n, UNIFORM, find)

    def may_widen(self, expected: float) -> bool:
        """Whether doubling the lanes saves enough time, if the whole content will have `expected`
        bits.
        """
        wider = 2 * len(self.heads)
        enough = expected >= BITS_A_LANE * wider and self.bits >= FILLED_FROM * wider
        return wider <= MOST_LANES and enough

    def widen(self) -> None:
        """Double the number of lanes. Each new head takes 56 bits from the content."""
        width = len(self.heads)
        high = self.pop_uniform(width) + np.uint64(1)  # 1 or more, so that a head is in its range
        self.heads = np.concatenate([self.heads, (high << WORD) | self._take(width)])

    def narrow(self) -> None:
        """The inverse of `widen`."""
        if len(self.heads) % 2:
            raise Broken("an odd number of lanes can not be halved")
        old, new = np.split(self.heads, 2)
        high = (new >> WORD) - np.uint64(1)
        if (high >> np.uint64(UNIFORM)).any():
            raise Broken("a lane ends in a state from which no encoder starts")
        self.heads = old.copy()
        self._append(new.astype(np.uint32))
        self.push_uniform(high)

    def is_start(self) -> bool:
        """Whether only start-up words and the first head are left."""
        expected = _start(np.random.Philox(key=0), self._size)[::-1]
        return (
            len(self.heads) == 1
            and self.heads[0] == FIRST
            and bool(np.array_equal(self.words, expected))
        )

    def _append(self, words: Words) -> None:
        end = self._size + len(words)
        if end > len(self._words):
            grown = np.empty(2 * end, np.uint32)
            grown[: self._size] = self.words
            self._words = grown
        self._words[self._size : end] = words
        self._size = end

    def _take(self, count: int) -> Words:
        """The newest `count` words, oldest first; start-up words are drawn if there are too few."""
        if (missing := count - self._size) > 0:
            fresh = _start(self._seeded, missing)[::-1]  # the words drawn last lie lowest
            self.drawn += missing
            words = np.concatenate([fresh, self.words])
            self._size = 0
            return words
        self._size -= count
        return self._words[self._size : self._size + count].copy()


def _start(generator: np.random.Philox, count: int) -> Words:
    """The next start-up words of a generator."""
    return (generator.random_raw(count) >> np.uint64(32)).astype(np.uint32)


def heads_as_bytes(heads: Counts) -> bytes:
    """Heads [W] as bytes. Each takes 37 + n bits, where n <= 31 is the number of binary digits
    after the leading one of the upper word. (log2 of a head is uniformly distributed, so 5 bits for
    n are the shortest code.)
    """
    text = "".join(_head_as_text(int(x)) for x in heads)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def heads_from_bytes(data: bytes, width: int) -> Counts:
    """The inverse of `heads_as_bytes`; raises `Broken` if the bytes hold no W heads."""
    text, place, heads = "".join(f"{byte:08b}" for byte in data), 0, []
    for _ in range(width):
        length = int(text[place : place + 5] or "0", 2)
        end = place + 5 + length + 32
        if end > len(text):
            raise Broken("the lanes' heads are cut short")
        heads.append(int("1" + text[place + 5 : end], 2))
        place = end
    if len(text) - place >= 8 or "1" in text[place:]:
        raise Broken("there are more heads than lanes")
    return np.array(heads, dtype=np.uint64)


def _head_as_text(x: int) -> str:
    digits = f"{x:b}"[1:]  # 32 to 63 digits after the leading one
    return f"{len(digits) - 32:05b}{digits}"
