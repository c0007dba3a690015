"""The InfoNCE bound between images and their captions, in both directions, on held-out pairs.

    I(image; caption) >= log C - L,   C = K + 1 candidates, K of them independent draws

Captions repeat, so a negative caption may describe an image as well as the image's own caption
does. Such false negatives are part of an independent sample. They lower the best possible value at
K (`core.data.caption_truth`).
n = pairs of the test split, P = code dimensions.
"""

import math
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from torch import Tensor

from core.data.source import TextTruth
from core.frozen import Frozen
from core.information.bounds import Bound, Estimate, infonce_sweep, infonce_terms, interval
from core.information.verdict import cosine_cap, verdict
from core.method import TextCritic
from core.transfer import near
from probes.probe import Entry, Found, Numbers, Probe, Value
from probes.report import figures, sweep_figures
from probes.texts.encoded import TextPairs, text_pairs, without_captions
from probes.views.critic import refit_scale, train_critics
from probes.views.information import best_critic, certified, overfitted, surpassed
from probes.views.sweep import counts_up_to

TRAIN_PAIRS, VAL_PAIRS = 16384, 2**11 + 1  # for the common critic, as between views
DIRECTIONS = ("image_to_text", "text_to_image")  # from the anchor to its candidates
BOTH = "sweep"  # the mean of both directions
Codes = tuple[Tensor, Tensor]  # of images and of captions, float32 [n, P] each


class CaptionsProbe(Probe):
    """InfoNCE bounds between images and captions, by several critics, swept over K."""

    name = "captions"
    summary = "InfoNCE lower bounds on I(image; caption), both directions, and the modality gap"
    columns = ("I(image;caption) ≥ (nats)", "verdict")
    across = "negatives K"
    panel = "Images and captions: lower bound on I(image; caption)"
    schema = """
        "quantity", "estimator", "side", "split", "unit", "images", "distinct_captions",
        "truth" (nats or null), "gap" (distance of the two means of codes), "own_cosine",
        "critics": {NAME: {"temperature", "scale", "cap" (nats), "verdict",
            "sweep" (mean of both directions) | "image_to_text" | "text_to_image":
                [{"K", "candidates", "loss", "bound", "low", "high", "ceiling", "best_possible"?}],
            "certificate"? | "no_certificate"?, "doubling"?}}   (as in the information probe)"""

    def requires(self, frozen: Frozen) -> str:
        return without_captions(frozen)

    def measure(self, frozen: Frozen, **options: int) -> Found:
        return Found(captions(frozen))

    def cells(self, numbers: Numbers) -> list[str]:
        name, critic = best_critic(numbers)
        last = critic[BOTH][-1]
        half = last["high"] - last["bound"]
        return [f"{last['bound']:.2f} ± {half:.2f} ({name}, K={last['K']:,})", critic["verdict"]]

    def values(self, numbers: Numbers) -> list[Value | str]:
        _, critic = best_critic(numbers)
        last = critic[BOTH][-1]
        return [Value(last["bound"], last["low"], last["high"]), critic["verdict"]]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        critics = numbers["critics"].items()
        found = {f"captions/{key}": critic[BOTH][-1]["bound"] for key, critic in critics}
        return found | {"captions/gap": numbers["gap"]}

    def curves(self, numbers: Numbers) -> dict[str, list[tuple[float, float]]]:
        return {
            f"{name} critic": [(row["K"], row["bound"]) for row in critic[BOTH]]
            for name, critic in numbers["critics"].items()
        }

    def sentences(self, numbers: Numbers) -> list[str]:
        lines = [_sentence(name, found) for name, found in numbers["critics"].items()]
        truth = numbers["truth"]
        known = f"; the truth is I(image;caption) = {truth:.3f} nats" if truth is not None else ""
        return [
            *lines,
            f"{numbers['images']:,} test pairs with {numbers['distinct_captions']:,} distinct"
            f" captions{known}; modality gap {numbers['gap']:.3f}, mean cosine of own pairs"
            f" {numbers['own_cosine']:.3f}",
        ]

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        return {"captions": _figure(found.numbers, folder / "captions.png")}

    def draw(self, axes: Axes, entries: list[Entry]) -> None:
        best = [(entry, *best_critic(entry.numbers)) for entry in entries]
        sweeps = [
            (entry._replace(label=f"{entry.label} ({name} critic)"), found[BOTH])
            for entry, name, found in best
        ]
        sweep_figures.draw_sweeps(axes, sweeps)


def captions(frozen: Frozen) -> Numbers:
    """Sweeps over C for each critic, on plain images of the test split and their captions.

    - "native": the method's own codes and temperature; nothing is fitted.
    - "native, refitted scale": the same codes, with the temperature refitted on val.
    - "common": a small critic with a net for each side, trained on frozen features of train and
      chosen on val. It shows what both encoders keep, whatever loss trained them.

    The test split is used once and chooses nothing.
    """
    method = frozen.method
    assert isinstance(method, TextCritic)
    train, val = text_pairs(frozen, "train", TRAIN_PAIRS), text_pairs(frozen, "val", VAL_PAIRS)
    test, truth = text_pairs(frozen, "test"), frozen.source("test").text_truth
    image, text = test.codes
    return {
        "quantity": "I(image; caption)",
        "estimator": "InfoNCE, log C - L, mean of both directions, frozen encoder",
        "side": "lower bound",
        "split": "test",
        "unit": "nats",
        "images": len(image),
        "distinct_captions": test.distinct,
        "truth": truth.nats if truth else None,
        "gap": (image.mean(0) - text.mean(0)).norm().item(),
        "own_cosine": (image * text).sum(1).mean().item(),
        "critics": critics(
            *near((train, val, test), frozen.device), method.temperature, truth, frozen.seed
        ),
    }


def critics(
    train: TextPairs,
    val: TextPairs,
    test: TextPairs,
    temperature: float,
    truth: TextTruth | None,
    seed: int,
) -> dict[str, Any]:
    """A sweep of the bound on the pairs of test for each critic, in nats."""
    found = {"native": both_ways(test.codes, 1 / temperature, truth)}
    scale = refit_scale(*val.codes, 1 / temperature)
    found["native, refitted scale"] = both_ways(test.codes, scale, truth, val.codes)
    found["native, refitted scale"] |= certified(test.codes, val.codes, scale)
    common, half = train_critics(train.features, val.features, seed, apart=True)
    on_test, on_val = common.both(*test.features), common.both(*val.features)
    halved = (half.both(*test.features), half.scale)
    found["common"] = both_ways(on_test, common.scale, truth, on_val, halved)
    found["common"] |= certified(on_test, on_val, common.scale)
    overfitted(found["common"], common.overfit)
    surpassed(found)
    return found


def both_ways(
    codes: Codes,
    scale: float,
    truth: TextTruth | None = None,
    calibration: Codes | None = None,
    halved: tuple[Codes, float] | None = None,
) -> dict[str, Any]:
    """The bound for C = 2^4 + 1 … n in each direction and as their mean, with intervals and
    ceilings; the verdict is that of the mean at the largest C.

    `calibration`: other codes, on which the critic was chosen. `halved`: codes of the same pairs,
    and the scale, of a critic that had half of the training pairs.
    """
    n = len(codes[0])
    counts = counts_up_to(n)
    swept = dict(zip(DIRECTIONS, _each_way(codes, scale, counts), strict=True))
    swept[BOTH] = [_mean(*both) for both in zip(*swept.values(), strict=True)]
    found = {name: [interval(*bound) for bound in bounds] for name, bounds in swept.items()}
    expected, sizes = None, [c for c in counts if calibration and c <= len(calibration[0])]
    if calibration and sizes:
        ways = (calibration, calibration[::-1])
        terms = [infonce_terms(*way, scale, sizes[-1:]).mean().item() for way in ways]
        at_size = found[BOTH][counts.index(sizes[-1])].mean
        expected = found[BOTH][-1].mean + sum(terms) / 2 - at_size
    gain = None
    if halved:
        whole, less = swept[BOTH][-1], _mean(*(way[0] for way in _each_way(*halved, [n])))
        gain = interval(whole.terms - less.terms, whole.influence - less.influence)
    cap, last = cosine_cap(scale, n), list(zip(counts, found[BOTH], strict=True))
    made: dict[str, Any] = {"scale": scale, "temperature": 1 / scale, "cap": cap}
    made["verdict"] = verdict(last, n, expected, cap, gain)
    made |= {name: _rows(counts, bounds, name, truth) for name, bounds in found.items()}
    if gain:
        extrapolated = found[BOTH][-1].mean + max(0.0, gain.mean)
        doubling = {"gain": gain.mean, "low": gain.low, "high": gain.high}
        made["doubling"] = doubling | {"extrapolated": extrapolated}
    return made


def _each_way(codes: Codes, scale: float, counts: list[int]) -> tuple[list[Bound], list[Bound]]:
    image, text = codes
    return infonce_sweep(image, text, scale, counts), infonce_sweep(text, image, scale, counts)


def _mean(forth: Bound, back: Bound) -> Bound:
    """The mean of two lower bounds on the same pairs."""
    return Bound((forth.terms + back.terms) / 2, (forth.influence + back.influence) / 2)


def _rows(
    counts: list[int], found: list[Estimate], name: str, truth: TextTruth | None
) -> list[dict[str, Any]]:
    rows = []
    for c, one in zip(counts, found, strict=True):
        row = {"K": c - 1, "candidates": c, "loss": math.log(c) - one.mean, "bound": one.mean}
        row |= {"low": one.low, "high": one.high, "ceiling": math.log(c)}
        rows.append(row | ({"best_possible": best_possible(truth, name, c - 1)} if truth else {}))
    return rows


def best_possible(truth: TextTruth, direction: str, negatives: int) -> float:
    """The largest expected bound of any critic with K negatives, in nats."""
    sides = {DIRECTIONS[0]: [truth.from_image], DIRECTIONS[1]: [truth.from_text]}
    ways = sides.get(direction, [truth.from_image, truth.from_text])
    return sum(way(negatives) for way in ways) / len(ways)


def _sentence(name: str, found: dict[str, Any]) -> str:
    last, (forth, back) = found[BOTH][-1], (found[way][-1]["bound"] for way in DIRECTIONS)
    best = f", best possible {last['best_possible']:.3f}" if "best_possible" in last else ""
    proof = found.get("certificate")
    certain = ""
    if proof:
        sure = f"{100 * proof['confidence']:g}% confidence"
        certain = f"; certificate: ≥ {proof['low']:.3f} with {sure} for any distribution"
    return (
        f"InfoNCE, {name} critic (T = {found['temperature']:.3f}): I(image;caption) ≥"
        f" {last['bound']:.3f} [{last['low']:.3f}, {last['high']:.3f}] nats at K = {last['K']:,}"
        f" (image to text {forth:.3f}, text to image {back:.3f}); ceiling log C ="
        f" {last['ceiling']:.2f}{best}: {found['verdict']}{certain}"
    )


def _figure(numbers: Numbers, path: Path) -> Path:
    """Against K: the mean of both directions for each critic, and each direction of the headline
    critic.
    """
    best, critic = best_critic(numbers)
    found = numbers["critics"].items()
    means = [(f"{name} critic: {one['verdict']}", one[BOTH]) for name, one in found]
    ways = [(way.replace("_", " "), critic[way]) for way in DIRECTIONS]
    with figures.picture(path, 1, 2, figsize=(13, 4.6)) as (_, (left, right)):
        for axes, curves in ((left, means), (right, ways)):
            looks = zip(curves, figures.COLOURS, figures.MARKERS, strict=False)
            entries = [
                (Entry(label, colour, mark, numbers), rows) for (label, rows), colour, mark in looks
            ]
            sweep_figures.draw_sweeps(axes, entries)
        left.set_title("Lower bound on I(image; caption), mean of both directions")
        right.set_title(f"Each direction, {best} critic")
    return path
