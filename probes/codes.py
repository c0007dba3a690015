"""Posteriors of a split and one code drawn from each (`core.information.codes`)."""

from core.data.source import Sampler, Source
from core.information.codes import Coded, Codes, codes, encoded, joined, normal_factors
from core.method import LatentModel

from collections.abc import Iterator

__all__ = ["Coded", "Codes", "coded", "codes", "joined", "normal_factors"]


def coded(method: LatentModel, source: Source, order: Sampler) -> Iterator[Coded]:
    """The batches of an order, each with its posteriors and codes."""
    return encoded(method, source.batches(order, 1))
