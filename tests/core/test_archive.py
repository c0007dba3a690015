"""Values in a checkpoint that its format allows, but `torch.save` never writes."""

import mmap

import pytest
import torch

from core.run import archive


def builder(content: bytes) -> archive.Builder:
    held = mmap.mmap(-1, 64)
    held[: len(content)] = content
    return archive.Builder(held, {"a/data/0": archive.Record(0, len(content))}, "a/data/")


@pytest.mark.parametrize(("content", "fits"), [(b"\0\1\1", True), (b"\0\2\1", False)])
def test_a_boolean_is_0_or_1(content, fits):
    """Other bytes would be true for some operations of torch and another number for others."""
    declared = archive.Declared(archive.Storage("0", torch.bool, 3), 0, (3,), (1,))
    if fits:
        assert builder(content).build(declared, 0).tolist() == [False, True, True]
        return
    with pytest.raises(archive.Broken, match="booleans holds other numbers"):
        builder(content).build(declared, 0)


def test_values_are_nested_at_most_fifty_deep():
    value = 1
    for _ in range(archive.DEPTH):
        value = [value]
    assert builder(b"").build(value, 0) == value and archive.DEPTH == 50
    with pytest.raises(archive.Foreign, match="deeper nesting"):
        builder(b"").build([value], 0)
