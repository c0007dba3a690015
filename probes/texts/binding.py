"""Binding: does an image fit its own caption better than the one with two words exchanged?

An example is "a red disc left of a blue cross" against "a blue disc left of a red cross". Both have
the same words, so a bag of words gives 50 %. n = test images, P = code dimensions.
"""

import torch
from torch import Tensor

from core.frozen import Frozen
from core.information.bounds import interval
from core.randomness import KeyedRNG
from probes.probe import Found, Numbers, Probe
from probes.texts.encoded import encoded_texts, text_pairs, without_captions


class BindingProbe(Probe):
    """The share of images that are nearer to the true caption than to the false one."""

    name = "binding"
    summary = "two-sprite scenes: the true caption against one with two words exchanged"
    schema = """
        "split", "swaps": {NAME: {"value", "low", "high", "images"}}   (chance 0.5)"""

    def requires(self, frozen: Frozen) -> str:
        if why := without_captions(frozen):
            return why
        label = torch.zeros(1, len(frozen.source("test").factors), dtype=torch.long)
        known = frozen.source("test").contrasts(label, KeyedRNG(0, 0))
        return "" if known else "the data have no false captions; data.name=scenes has them"

    def measure(self, frozen: Frozen, **options: int) -> Found:
        return Found(binding(frozen))

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {f"binding/{name}": row["value"] for name, row in numbers["swaps"].items()}

    def sentences(self, numbers: Numbers) -> list[str]:
        said = [
            f"{name} exchanged: {100 * row['value']:.1f} % [{100 * row['low']:.1f},"
            f" {100 * row['high']:.1f}] of {row['images']:,} images"
            for name, row in numbers["swaps"].items()
        ]
        share = "share of images that are nearer to the true caption (chance 50 %)"
        return [f"binding, {share}: {', '.join(said)}"]


def binding(frozen: Frozen) -> Numbers:
    """The share of right choices for each kind of false caption; ties count as a half."""
    pairs = text_pairs(frozen, "test")
    rng = KeyedRNG(frozen.seed, 0).fork("binding")
    contrasts = frozen.source("test").contrasts(pairs.label, rng)
    found = {}
    for name, captions in contrasts.items():
        rows = torch.tensor([i for i, both in enumerate(captions) if both], dtype=torch.long)
        if not len(rows):
            continue
        true, false = zip(*(both for both in captions if both), strict=True)
        codes = encoded_texts(frozen, [*true, *false])[1].chunk(2)
        right = interval(preferred(pairs.codes[0][rows], *codes))
        low, high = max(0.0, right.low), min(1.0, right.high)
        row = {"value": right.mean, "low": low, "high": high, "images": len(rows)}
        found[name] = row
    return {"split": "test", "swaps": found}


def preferred(image: Tensor, true: Tensor, false: Tensor) -> Tensor:
    """1 if the true caption is nearer, 0.5 for a tie; unit codes [n, P] to float64 [n]."""
    margin = (image * (true - false)).sum(1)
    return (margin.sign().double() + 1) / 2
