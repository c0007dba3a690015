"""Zero-shot classification: each image is assigned to the class whose sentences are nearest to it.

"codes": the code of a class is the mean of the unit codes of several sentences that name it, scaled
to unit length (Radford et al. 2021, section 3.1.4). "probabilities": the sentences are averaged as
probabilities, log mean exp(cosine / temperature). This suits sentences that also mention other
factors, because then only a few of them fit the image. No label is used in training.

n = test images, P = code dimensions, k = sentences of a class.
"""

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.frozen import Frozen
from core.information.bounds import interval
from core.method import TextCritic
from probes.probe import Found, Numbers, Probe, Value
from probes.report import figures
from probes.texts.encoded import encoded_texts, text_pairs, without_captions

PARTS = ("all", "seen", "unseen")  # of the test images, by their combination of factors
WAYS = ("codes", "probabilities")  # what is averaged
BLOCK = 512  # images at a time
JOINT = "all factors"  # right in every factor at once


class ZeroShotProbe(Probe):
    """Accuracy for each factor, with sentences that each name one value."""

    name = "zero_shot"
    summary = "classification by averaged prompts, for each factor; seen and unseen combinations"
    columns = ("zero-shot (%)",)
    schema = """
        "top1" (mean over factors), "images", "sentence"? (if captions were made from labels),
        "parts": {"all" | "seen" | "unseen": {"images", "codes" | "probabilities": {FACTOR |
            "all factors": {"value", "low", "high", "chance"}}}}   (seen, unseen: if
            combinations were left out of training; top1 is that of codes),
        "prompts": {FACTOR: number of sentences of a class}"""

    def requires(self, frozen: Frozen) -> str:
        why = without_captions(frozen)
        return why or ("" if frozen.source("test").prompts() else "no sentences name its classes")

    def measure(self, frozen: Frozen, **options: int) -> Found:
        return Found(zero_shot(frozen))

    def cells(self, numbers: Numbers) -> list[str]:
        return [f"{100 * numbers['top1']:.1f}"]

    def values(self, numbers: Numbers) -> list[Value | str]:
        return [Value(100 * numbers["top1"], digits=1)]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {"zero_shot/top1": numbers["top1"]} | {
            f"zero_shot/{part}/{way}/{factor}": row["value"]
            for part, found in numbers["parts"].items()
            for way in WAYS
            for factor, row in found[way].items()
        }

    def sentences(self, numbers: Numbers) -> list[str]:
        parts = [(part, numbers["parts"][part]) for part in PARTS if part in numbers["parts"]]
        lines = [_sentence(part, way, found) for part, found in parts for way in WAYS]
        return lines + ([numbers["sentence"]] if "sentence" in numbers else [])

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        return {"zero_shot": _bars(found.numbers, folder / "zero_shot.png")}


def zero_shot(frozen: Frozen) -> Numbers:
    """The accuracy of each factor on plain test images. If combinations were held out of training,
    also the accuracy on combinations that occur in training, and on those that do not.
    """
    source, pairs, method = frozen.source("test"), text_pairs(frozen, "test"), frozen.method
    assert isinstance(method, TextCritic)
    prompts, names = source.prompts(), list(source.factors)
    right: dict[str, dict[str, Tensor]] = {way: {} for way in WAYS}
    for factor, sentences in prompts.items():
        classes = [encoded_texts(frozen, words)[1] for words in sentences]
        found = classify(pairs.codes[0], classes, method.temperature)
        for way, labels in zip(WAYS, found, strict=True):
            right[way][factor] = (labels == pairs.label[:, names.index(factor)]).double()
    for hits in right.values():
        if len(hits) > 1:
            hits[JOINT] = torch.stack(list(hits.values())).prod(0)
    chance = {factor: 1 / len(sentences) for factor, sentences in prompts.items()}
    chance[JOINT] = math.prod(chance.values())
    unseen = source.unseen(pairs.label)
    rows = {"all": torch.ones(len(pairs.label), dtype=torch.bool)}
    if unseen is not None:
        rows |= {"seen": ~unseen, "unseen": unseen}
    parts: dict[str, Any] = {
        part: {"images": int(chosen.sum())}
        | {way: _accuracies(hits, chosen, chance) for way, hits in right.items()}
        for part, chosen in rows.items()
        if chosen.any()
    }
    every = parts["all"]["codes"]
    numbers: Numbers = {
        "top1": sum(every[factor]["value"] for factor in prompts) / len(prompts),
        "images": len(pairs.label),
        "parts": parts,
        "prompts": {factor: len(sentences[0]) for factor, sentences in prompts.items()},
    }
    if source.captions_of_labels:
        numbers["sentence"] = (
            "the captions were made from class names, so this is supervised classification, not"
            " zero-shot classification"
        )
    return numbers


def _accuracies(
    hits: dict[str, Tensor], chosen: Tensor, chance: dict[str, float]
) -> dict[str, dict[str, float]]:
    """The share of hits of each factor among the chosen images, with its interval and chance."""
    found = {}
    for factor, right in hits.items():
        one = interval(right[chosen])
        low, high = (one.low, one.high) if chosen.sum() > 1 else (0.0, 1.0)
        row = {"value": one.mean, "low": max(0.0, low), "high": min(1.0, high)}
        found[factor] = row | {"chance": chance[factor]}
    return found


def classify(image: Tensor, classes: list[Tensor], temperature: float) -> tuple[Tensor, Tensor]:
    """The class [n] of unit codes [n, P] by averaged codes and by averaged probabilities.
    `classes`: the unit codes [k, P] of the sentences of each class.
    """
    means = F.normalize(torch.stack([codes.mean(0) for codes in classes]), dim=1)
    by_codes, by_probabilities = [], []
    for block in image.split(BLOCK):
        by_codes.append((block @ means.T).argmax(1))
        scores = [
            (block @ codes.T / temperature).logsumexp(1) - math.log(len(codes)) for codes in classes
        ]
        by_probabilities.append(torch.stack(scores, 1).argmax(1))
    return torch.cat(by_codes), torch.cat(by_probabilities)


def _sentence(part: str, way: str, found: dict[str, Any]) -> str:
    of = {"all": "all test images", "seen": "seen combinations", "unseen": "unseen combinations"}
    said = [
        f"{factor} {100 * row['value']:.1f} % (chance {100 * row['chance']:.1f})"
        for factor, row in found[way].items()
    ]
    return f"zero-shot by averaged {way}, {of[part]} ({found['images']:,}): {', '.join(said)}"


def _bars(numbers: Numbers, path: Path) -> Path:
    """Accuracy of each factor, for each part of the test images, with chance."""
    parts = {part: numbers["parts"][part] for part in PARTS if part in numbers["parts"]}
    factors = list(parts["all"]["codes"])
    width = 0.8 / len(parts)
    with figures.picture(path, figsize=(1.6 + 1.1 * len(factors), 3.6)) as (_, axes):
        for number, (part, found) in enumerate(parts.items()):
            for place, factor in enumerate(factors):
                row = found["codes"][factor]
                x = place + (number - (len(parts) - 1) / 2) * width
                error = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
                label = f"{part} ({found['images']:,} images)" if place == 0 else None
                look: Any = {"color": figures.COLOURS[number], "capsize": 2, "label": label}
                axes.bar(x, row["value"], 0.9 * width, yerr=error, **look)
        for place, factor in enumerate(factors):
            level = parts["all"]["codes"][factor]["chance"]
            axes.plot([place - 0.45, place + 0.45], [level] * 2, ":", color=figures.BLACK)
        axes.set_xticks(range(len(factors)), factors)
        axes.set(ylabel="accuracy (dotted: chance)", ylim=(0, 1.02))
        axes.set_title("Zero-shot classification by averaged codes of prompts")
        figures.legend(axes, "lines: 95% interval")
    return path
