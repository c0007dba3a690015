"""The stack of bits: exact inverses for any counts and lanes, lengths near the entropy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from vae import exact
from vae.ans import Broken, Stack, heads_as_bytes, heads_from_bytes

BITS = 24


def symbols(n: int, seed: int, levels: int = 5):
    """Random levels [n], and cumulative counts [n, levels + 1] of each."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 2**12, (n, levels)) ** rng.integers(1, 3, (n, 1))
    inner = weights.cumsum(1)[:, :-1] * (2**BITS - levels) // weights.sum(1, keepdims=True)
    inner += np.arange(1, levels)
    table = np.pad(inner, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 2**BITS)))
    u = rng.integers(0, 2**BITS, n)
    return (u[:, None] >= table[:, 1:]).sum(1), table.astype(np.uint64)


def push(stack: Stack, chosen, table) -> None:
    rows = np.arange(len(chosen))
    low = table[rows, chosen]
    stack.push(low, table[rows, chosen + 1] - low, BITS)


def pop(stack: Stack, table):
    def find(u, row):
        own = table[row]
        level = (u[:, None] >= own[:, 1:]).sum(1)
        low = own[np.arange(len(u)), level]
        return level, low, own[np.arange(len(u)), level + 1] - low

    return stack.pop(len(table), BITS, find)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 70), min_size=1, max_size=6), st.integers(0, 5), st.integers(0, 99))
def test_what_is_popped_is_what_was_pushed_in_the_opposite_order(sizes, doublings, seed):
    stack, calls = Stack(), [symbols(n, seed + i) for i, n in enumerate(sizes)]
    for number, call in enumerate(calls):
        if number < doublings:
            stack.widen()
        push(stack, *call)
    heads = heads_from_bytes(heads_as_bytes(stack.heads), len(stack.heads))
    other = Stack(stack.words.copy(), heads)  # as a file keeps it
    for number, (chosen, table) in reversed(list(enumerate(calls))):
        assert pop(other, table).tolist() == chosen.tolist()
        if number < doublings:
            other.narrow()
    assert other.is_start() and len(other.words) == stack.drawn


def test_popping_from_an_empty_stack_draws_bits_that_come_back():
    stack, (_, table) = Stack(), symbols(50, 0)
    chosen = pop(stack, table)
    assert stack.drawn > 1 and chosen.std() > 0
    assert not stack.is_start()
    push(stack, chosen, table)
    assert stack.is_start() and len(stack.words) == stack.drawn


@pytest.mark.parametrize("doublings", [0, 4, 7])
def test_the_length_is_the_entropy_of_the_counts_for_any_number_of_lanes(doublings):
    chosen, table = symbols(40_000, 3)
    rows = np.arange(len(chosen))
    ideal = (BITS - np.log2((table[rows, chosen + 1] - table[rows, chosen]).astype(float))).sum()
    stack = Stack()
    push(stack, chosen[:20_000], table[:20_000])
    for _ in range(doublings):
        stack.widen()
    push(stack, chosen[20_000:], table[20_000:])
    written = 32 * len(stack.words) + 8 * len(heads_as_bytes(stack.heads))
    assert ideal <= written <= ideal * 1.0002 + 40 + 5 * 2**doublings


def test_the_length_is_that_of_constriction_on_the_same_probabilities():
    constriction = pytest.importorskip("constriction")
    chosen, table = symbols(4000, 5)
    coder = constriction.stream.stack.AnsCoder()
    family = constriction.stream.model.Categorical(perfect=False)
    shares = np.diff(table.astype(np.int64), axis=1) / 2**BITS
    coder.encode_reverse(chosen.astype(np.int32), family, shares)
    stack = Stack()
    push(stack, chosen, table)
    ours = 32 * len(stack.words) + 8 * len(heads_as_bytes(stack.heads))
    assert abs(ours / coder.num_bits() - 1) < 0.01  # 32 bits of the first head, one word


def test_a_head_at_the_edge_of_its_range_gives_a_word_away():
    """x = freq 2^(64 - bits) is the least head whose successor has no place in 64 bits."""
    one = np.ones(1, np.uint64)
    for spare in (-1, 0, 1):
        head = np.array([(3 << 40) + spare], dtype=np.uint64)
        stack = Stack(heads=head)
        stack.push(5 * one, 3 * one, BITS)
        assert len(stack.words) == (spare >= 0)
        assert stack.pop(1, BITS, lambda u, row: (u, 5 * one, 3 * one)).tolist()[0] in (5, 6, 7)
        assert stack.heads.tolist() == head.tolist() and not len(stack.words)


def test_there_are_at_most_1024_lanes():
    words = np.zeros(16_500, np.uint32)  # more than 256 bits for each of 2048 lanes
    for lanes, may in ((512, True), (1024, False)):
        stack = Stack(words, np.full(lanes, 2**40, dtype=np.uint64))
        assert stack.may_widen(1e12) == may


def test_heads_that_are_cut_short_or_too_many_are_refused():
    data = heads_as_bytes(np.array([2**32, 2**63 + 5, 2**40 - 1], dtype=np.uint64))
    for wrong, width in ((data[:-1], 3), (data, 4), (data, 2), (b"", 1), (data + b"\0", 3)):
        with pytest.raises(Broken):
            heads_from_bytes(wrong, width)
    data = heads_as_bytes(np.array([2**32], dtype=np.uint64))  # 37 bits in 5 bytes
    with pytest.raises(Broken):
        heads_from_bytes(data[:-1] + bytes([data[-1] | 1]), 1)


def test_lanes_that_can_not_have_been_filled_are_refused():
    with pytest.raises(Broken, match="no encoder starts"):
        Stack(heads=np.array([2**40, 2**63], dtype=np.uint64)).narrow()


def test_functions_without_a_math_library_agree_with_scipy():
    x = np.linspace(-690, 690, 20_001)
    assert np.abs(exact.exp(x) / np.exp(x) - 1).max() < 1e-15
    assert np.abs(exact.sigmoid(x) - 1 / (1 + np.exp(-x))).max() < 1e-15
    t = np.linspace(-12, 12, 400_001)
    found = exact.normal_cdf(t)
    assert np.abs(found - ndtr(t)).max() < 3e-8 and (np.diff(found) >= 0).all()
    assert found[0] == 0 and found[-1] == 1 and math.isclose(exact.normal_cdf(np.zeros(1))[0], 0.5)
