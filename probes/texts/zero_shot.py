"""Zero-shot classification: an image belongs to the class whose words are nearest to it.

The code of a class is the mean of the unit codes of several sentences that tell it, scaled to unit
length (Radford et al. 2021, section 3.1.4). No label trains anything. n = test images, P = code
dimensions.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.frozen import Frozen
from core.information.bounds import interval
from probes.probe import Found, Numbers, Probe, Value
from probes.report import figures
from probes.texts.encoded import encoded_texts, text_pairs, without_captions

PARTS = ("all", "seen", "unseen")  # of the test images, by their combination of factors
JOINT = "all factors"  # right in every factor at once


class ZeroShotProbe(Probe):
    """Accuracy for each factor, by sentences that tell one value each."""

    name = "zero_shot"
    summary = "classification by averaged prompts, for each factor; seen and unseen combinations"
    columns = ("zero-shot (%)",)
    schema = """
        "top1" (mean over factors), "images", "sentence"? (if captions were made from labels),
        "parts": {"all" | "seen" | "unseen": {"images", "top1": {FACTOR | "all factors":
            {"value", "low", "high", "chance"}}}}   (seen, unseen: if train holds combinations out),
        "prompts": {FACTOR: sentences of a class}"""

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
            f"zero_shot/{part}/{factor}": row["value"]
            for part, found in numbers["parts"].items()
            for factor, row in found["top1"].items()
        }

    def sentences(self, numbers: Numbers) -> list[str]:
        lines = [
            _sentence(part, numbers["parts"][part]) for part in PARTS if part in numbers["parts"]
        ]
        return lines + ([numbers["sentence"]] if "sentence" in numbers else [])

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        return {"zero_shot": _bars(found.numbers, folder / "zero_shot.png")}


def zero_shot(frozen: Frozen) -> Numbers:
    """The accuracy of each factor on plain test images and, if combinations were held out of
    training, on those that it showed and on those that it did not.
    """
    source, pairs = frozen.source("test"), text_pairs(frozen, "test")
    prompts, names = source.prompts(), list(source.factors)
    right = {}
    for factor, sentences in prompts.items():
        found = classify(pairs.codes[0], class_codes(frozen, sentences))
        right[factor] = (found == pairs.label[:, names.index(factor)]).double()
    if len(right) > 1:
        right[JOINT] = torch.stack(list(right.values())).prod(0)
    chance = {factor: 1 / len(sentences) for factor, sentences in prompts.items()}
    chance[JOINT] = torch.tensor(list(chance.values())).prod().item()
    unseen = source.unseen(pairs.label)
    rows = {"all": torch.ones(len(pairs.label), dtype=torch.bool)}
    if unseen is not None:
        rows |= {"seen": ~unseen, "unseen": unseen}
    parts: dict[str, Any] = {}
    for part, chosen in rows.items():
        if not chosen.any():
            continue
        parts[part] = {"images": int(chosen.sum()), "top1": {}}
        for factor, hits in right.items():
            one = interval(hits[chosen])
            low, high = (one.low, one.high) if chosen.sum() > 1 else (0.0, 1.0)
            row = {"value": one.mean, "low": max(0.0, low), "high": min(1.0, high)}
            parts[part]["top1"][factor] = row | {"chance": chance[factor]}
    every = parts["all"]["top1"]
    numbers: Numbers = {
        "top1": sum(every[factor]["value"] for factor in prompts) / len(prompts),
        "images": len(pairs.label),
        "parts": parts,
        "prompts": {factor: len(sentences[0]) for factor, sentences in prompts.items()},
    }
    if source.captions_of_labels:
        numbers["sentence"] = (
            "the captions were made from class names, so this is supervision in disguise, and no"
            " zero-shot classification"
        )
    return numbers


def class_codes(frozen: Frozen, sentences: list[list[str]]) -> Tensor:
    """The mean direction of the sentences of each class, float32 [classes, P]."""
    rows = [encoded_texts(frozen, words)[1].mean(0) for words in sentences]
    return F.normalize(torch.stack(rows), dim=1)


def classify(image: Tensor, classes: Tensor) -> Tensor:
    """The nearest class [n] of unit codes [n, P]."""
    return (image @ classes.T).argmax(1)


def _sentence(part: str, found: dict[str, Any]) -> str:
    of = {"all": "all test images", "seen": "seen combinations", "unseen": "unseen combinations"}
    said = [
        f"{factor} {100 * row['value']:.1f} % (chance {100 * row['chance']:.1f})"
        for factor, row in found["top1"].items()
    ]
    return f"zero-shot, {of[part]} ({found['images']:,}): {', '.join(said)}"


def _bars(numbers: Numbers, path: Path) -> Path:
    """Accuracy of each factor, for each part of the test images, with chance."""
    parts = {part: numbers["parts"][part] for part in PARTS if part in numbers["parts"]}
    factors = list(parts["all"]["top1"])
    width = 0.8 / len(parts)
    with figures.picture(path, figsize=(1.6 + 1.1 * len(factors), 3.6)) as (_, axes):
        for number, (part, found) in enumerate(parts.items()):
            for place, factor in enumerate(factors):
                row = found["top1"][factor]
                x = place + (number - (len(parts) - 1) / 2) * width
                error = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
                label = f"{part} ({found['images']:,} images)" if place == 0 else None
                look: Any = {"color": figures.COLOURS[number], "capsize": 2, "label": label}
                axes.bar(x, row["value"], 0.9 * width, yerr=error, **look)
        for place, factor in enumerate(factors):
            level = parts["all"]["top1"][factor]["chance"]
            axes.plot([place - 0.45, place + 0.45], [level] * 2, ":", color=figures.BLACK)
        axes.set_xticks(range(len(factors)), factors)
        axes.set(ylabel="accuracy (dotted: chance)", ylim=(0, 1.02))
        axes.set_title("Zero-shot classification by averaged prompts")
        figures.legend(axes, "lines: 95% interval")
    return path
