"""The text tower as a reader of captions: what its features tell about each label of the image.

A linear classifier reads each label from the features of a caption alone. If a caption does not
mention a factor, all k values of the factor stay equally likely. So if a caption mentions it with
a known probability p, the best possible numbers are known: accuracy p + (1 - p) / k and
information p log k. n = captions.
"""

import math

from core.data.source import Source
from core.frozen import Frozen
from core.run.features import Features
from probes.labels.linear import linear
from probes.probe import Found, Numbers, Probe, Value
from probes.texts.captions import TRAIN_PAIRS
from probes.texts.encoded import text_pairs, without_captions


class ReaderProbe(Probe):
    """Logistic regression on the text tower's features of captions."""

    name = "reader"
    summary = "logistic regression on features of captions: what they tell about each label"
    columns = ("labels from captions %",)
    schema = """
        "captions" (of test), "top1", "information" (H(Y) - CE, nats; means over labels), "labels":
            {FACTOR: {"top1", "information", "chance", "best_top1"?, "best_information"?}}"""

    def requires(self, frozen: Frozen) -> str:
        if why := without_captions(frozen):
            return why
        known = any(count > 1 for count in frozen.source("test").factors.values())
        return "" if known else "the images have no labels"

    def measure(self, frozen: Frozen, **options: int) -> Found:
        return Found(reader(frozen))

    def cells(self, numbers: Numbers) -> list[str]:
        return [f"{100 * numbers['top1']:.1f}"]

    def values(self, numbers: Numbers) -> list[Value | str]:
        return [Value(100 * numbers["top1"], digits=1)]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {f"reader/{key}": numbers[key] for key in ("top1", "information")}

    def sentences(self, numbers: Numbers) -> list[str]:
        said = []
        for factor, row in numbers["labels"].items():
            known = "best_top1" in row
            accuracy = f" (best possible {100 * row['best_top1']:.1f})" if known else ""
            nats = f" (best possible {row['best_information']:.3f})" if known else ""
            top1 = f"{100 * row['top1']:.1f} %"
            said.append(f"{factor} {top1}{accuracy}, {row['information']:.3f}{nats} nats")
        captions = f"{numbers['captions']:,} captions"
        return [f"labels that a linear classifier reads from {captions}: {'; '.join(said)}"]


def reader(frozen: Frozen) -> Numbers:
    """Accuracy and usable information of each label, from captions of test; fitted to captions of
    train.
    """
    train, test = text_pairs(frozen, "train", TRAIN_PAIRS), text_pairs(frozen, "test")
    source = frozen.source("test")
    known, asked = (Features.of(p.features[1], p.label, source.factors) for p in (train, test))
    found = linear(known, asked, frozen.seed)
    labels = {
        factor: {
            "top1": found[f"top1/{factor}"],
            "information": found[f"information/{factor}"],
            "chance": 1 / count,
        }
        | best_possible(source, factor, count)
        for factor, count in asked.factors
    }
    numbers: Numbers = {"captions": len(test.texts), "labels": labels}
    return numbers | {key: found[key] for key in ("top1", "information")}


def best_possible(source: Source, factor: str, count: int) -> dict[str, float]:
    """The best expected numbers of any reader, if it is known how often a factor is mentioned."""
    if not source.text_truth or factor not in source.text_truth.told:
        return {}
    told = source.text_truth.told[factor]
    best = told + (1 - told) / count
    return {"best_top1": best, "best_information": told * math.log(count)}
