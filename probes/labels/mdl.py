"""Description length of labels given frozen features: an online (prequential) code.

n = images, Y = classes of a factor.
"""

import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

from core.console import steps_left
from core.errors import Unmeasurable
from core.frozen import Frozen
from core.information.nml import multinomial_length
from core.information.standardise import require_finite_numbers
from core.information.units import bits
from core.randomness import KeyedRNG
from core.run.features import Features
from probes.labels.linear import readings
from probes.labels.variational import variational
from probes.probe import Entry, Found, Numbers, Probe, Value, without_labels
from probes.report import figures

# where the blocks of the code end, as shares of the images (Voita & Titov 2020, section 3.2)
SHARES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
LEAST = 20  # images


def block_ends(n: int) -> list[int]:
    """Where blocks of n images end; the first has at least the two images that a fit needs.

    >>> block_ends(1000)
    [2, 4, 8, 16, 32, 62, 125, 250, 500, 1000]
    """
    return sorted({max(2, round(share * n)) for share in SHARES})


def prequential(
    features: Features, seed: int = 0, orders: int = 3, tolerance: float = 0.1
) -> Numbers:
    """Code length of the labels, given the features, in nats, for every factor.

        L = t_1 log Y  +  sum_j sum_(i in block j + 1) -log p(y_i | x_i; fitted to blocks 1 to j)

    t_1 is the size of the first block. Sender and receiver know all features. The labels of the
    first block are sent with the uniform code. Each further block is sent with a linear probe that
    is fitted to the labels sent before; its penalty is chosen on these labels alone. So L is the
    length of a real code, and it includes the cost of learning: L is smaller if a probe needs fewer
    labels (Blier & Ollivier 2018; Voita & Titov 2020). L depends on the order of the images, so its
    mean and standard deviation over `orders` permutations are given; different seeds have
    different permutations.

    "compression" is n log Y / L. "alone" is the length of the labels without features, by the code
    of normalised maximum likelihood (NML). The surplus description length (Whitney et al. 2020) is
    the part of L above `tolerance` nats an image,

        SDL = sum_i max(0, loss_i - tolerance);

    SDL converges with n only if the loss reaches the tolerance ("reached"); otherwise the reported
    number is a lower limit of SDL. "variational" is the length of a code with a Bayesian linear
    probe (`probes.labels.variational`). Raises `Unmeasurable` for fewer than 20 images, and where
    the linear probe raises it.
    """
    n = len(features.x)
    if n < LEAST:
        raise Unmeasurable(f"description length: needs {LEAST} images, got {n}")
    ends = block_ends(n)
    losses: list[list[list[float]]] = [[] for _ in features.factors]  # factor, order, block
    for order in steps_left(orders, "description length", "orders"):
        rows = KeyedRNG(seed, order).permutation("description length", n)
        for column, blocks in enumerate(_of_one_order(features, rows, ends, seed)):
            losses[column].append(blocks)
    made = {
        factor: _numbers(losses[column], ends, features.y[:, column], classes, tolerance)
        for column, (factor, classes) in enumerate(features.factors)
    }
    for part, length in zip(made.values(), variational(features, seed), strict=True):
        part["variational"] = length
    keys = ("nats", "uniform", "alone", "sdl", "variational")
    total = {key: sum(part[key] for part in made.values()) for key in keys}
    spread = math.sqrt(sum(part["sd"] ** 2 for part in made.values()))
    found: Numbers = {
        "images": n,
        "orders": orders,
        "tolerance": tolerance,
        "ends": ends,
        "factor": made,
    }
    found |= total | {"sd": spread, "kbits": bits(total["nats"]) / 1000}
    if total["uniform"] > 0:
        found["compression"] = total["uniform"] / total["nats"]
    require_finite_numbers(found, "description length")
    return found


def _of_one_order(
    features: Features, rows: Tensor, ends: list[int], seed: int
) -> list[list[float]]:
    """The loss of each block after the first, for each factor: mean nats an image, by a probe that
    was fitted to all earlier blocks.
    """
    x, y = features.x[rows], features.y[rows]
    losses: list[list[float]] = [[] for _ in features.factors]
    for end, after in zip(ends, ends[1:], strict=False):
        past, block = (Features(x[part], y[part], features.factors) for part in _parts(end, after))
        for column, reading in enumerate(readings(past, block, seed)):
            losses[column].append(reading.cross_entropy(block.y[:, column]).mean().item())
    return losses


def _parts(end: int, after: int) -> tuple[slice, slice]:
    return slice(end), slice(end, after)


def _numbers(
    losses: list[list[float]], ends: list[int], y: Tensor, classes: int, tolerance: float
) -> Numbers:
    """The numbers of one factor from the losses of each order and block."""
    uniform, sizes = math.log(classes), [b - a for a, b in zip(ends, ends[1:], strict=False)]
    lengths, surplus = [], []
    for blocks in losses:
        named = [(ends[0], uniform), *zip(sizes, blocks, strict=True)]
        lengths.append(sum(size * loss for size, loss in named))
        surplus.append(sum(size * max(0.0, loss - tolerance) for size, loss in named))
    curve = [fmean(column) for column in zip(*losses, strict=True)]
    found: Numbers = {
        "nats": fmean(lengths),
        "sd": stdev(lengths) if len(lengths) > 1 else 0.0,
        "kbits": bits(fmean(lengths)) / 1000,
        "uniform": len(y) * uniform,
        "alone": multinomial_length(torch.bincount(y, minlength=classes).numpy()),
        "sdl": fmean(surplus),
        "reached": int(curve[-1] <= tolerance),
        "curve": [[end, loss] for end, loss in zip(ends, curve, strict=False)],
    }
    if uniform > 0:
        found["compression"] = found["uniform"] / found["nats"]
    return found


class MDLProbe(Probe):
    """The length of a code that sends the labels to a receiver who has the features."""

    name, on_request = "mdl", True
    summary = "description length of the labels, given the features: online code, linear probes"
    columns = ("labels kbit", "compression")
    options = {"orders": 3, "tolerance": 10}
    across = "labels sent before"
    panel = "Description length of the labels"
    schema = """
        "nats" (online code) | "variational" (code) | "uniform" (code) | "alone" (NML without
        features) | "sdl" (surplus): totals over factors; "sd" (over orders), "kbits",
        "compression" (uniform / nats), "images", "orders", "tolerance" (nats an image; the option
        is in hundredths of a nat), "ends" (of the blocks), "factor": {FACTOR: the same, "reached"
        (the tolerance; 0 | 1), "curve": [[labels sent before a block, nats an image in it]]} """

    def requires(self, frozen: Frozen) -> str:
        return without_labels(frozen)

    def measure(self, frozen: Frozen, **options: int) -> Found:
        tolerance = options["tolerance"] / 100
        train = frozen.features("trainval")
        return Found(prequential(train, frozen.seed, options["orders"], tolerance))

    def cells(self, numbers: Numbers) -> list[str]:
        ratio = numbers.get("compression")
        return [f"{numbers['kbits']:.2f}", f"{ratio:.2f}" if ratio else "–"]

    def values(self, numbers: Numbers) -> list[Value | str]:
        ratio = numbers.get("compression")
        return [Value(numbers["kbits"]), Value(ratio) if ratio else "–"]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        keys = ("nats", "kbits", "compression", "sdl")
        return {f"mdl/{key}": numbers[key] for key in keys if key in numbers}

    def curves(self, numbers: Numbers) -> dict[str, list[tuple[float, float]]]:
        return {
            f"nats an image, {factor}": [(x, y) for x, y in part["curve"]]
            for factor, part in numbers["factor"].items()
        }

    def sentences(self, numbers: Numbers) -> list[str]:
        lines = []
        for factor, part in numbers["factor"].items():
            ratio = f"{part.get('compression', 1):.2f} times shorter than the uniform code"
            sdl = (
                f"{'' if part['reached'] == 1 else 'at least '}{bits(part['sdl']) / 1000:.3f} kbit"
            )
            lines.append(
                f"description length of {factor}: {part['kbits']:.3f} ±"
                f" {bits(part['sd']) / 1000:.3f} kbit for {numbers['images']:,} labels,"
                f" {ratio if 'compression' in part else 'a single class'}; without features"
                f" {bits(part['alone']) / 1000:.3f} kbit (NML); by a variational code"
                f" {bits(part['variational']) / 1000:.3f} kbit; surplus over"
                f" {numbers['tolerance']:g} nats an image: {sdl}"
            )
        return lines

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        """The learning curve; its sum over images is the length of the code."""
        return {"learning": draw_curves(found.numbers, folder / "learning.png")}

    def draw(self, axes: Axes, entries: list[Entry]) -> None:
        for entry in entries:
            value = bits(entry.numbers["nats"]) / 1000
            error = bits(entry.numbers["sd"]) / 1000
            axes.bar(entry.place, value, 0.6, color=entry.colour)
            axes.errorbar(entry.place, value, error, color=figures.BLACK, capsize=2, linewidth=1)
            top = value + error
            axes.text(entry.place, top, f"{value:.2f}", ha="center", va="bottom", fontsize=8)
        figures.named_places(axes, entries)
        axes.set(ylabel="kbit, sum over factors; shorter is better")


def draw_curves(numbers: Numbers, path: Path) -> Path:
    """Nats an image of each block, by the number of labels sent before it."""
    look: Any = {"marker": "o", "markersize": 4, "linewidth": 1.4}
    with figures.picture(path, figsize=(7.5, 4.6)) as (_, axes):
        for place, (factor, part) in enumerate(numbers["factor"].items()):
            x, y = zip(*part["curve"], strict=True)
            colour = figures.COLOURS[place % len(figures.COLOURS)]
            label = f"{figures.drawable(factor)}: {part['kbits']:.2f} kbit"
            axes.plot(x, y, color=colour, label=label, **look)
            uniform = part["uniform"] / numbers["images"]
            axes.axhline(uniform, color=colour, linestyle=":", linewidth=1)
        axes.axhline(numbers["tolerance"], color=figures.GREY, linestyle="--", linewidth=1)
        axes.set(xscale="log", xlabel="labels sent before", ylabel="nats an image, next block")
        axes.set_title("Online code of the labels, given the features")
        figures.legend(axes, "dotted: uniform code;\ndashed: tolerance of the surplus")
    return path
