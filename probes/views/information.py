"""The InfoNCE bound of a frozen encoder on held-out images: two views share at least this many
nats.

    I(V1; V2) >= log C - L,   C = K + 1 candidates, K of them independent negatives

n = images of the test split, D = feature dimensions, P = code dimensions.
"""

import math
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

from core.data.source import Truth
from core.errors import Unmeasurable
from core.frozen import Frozen, Pairs
from core.information.certificate import certificate
from core.information.verdict import UNKNOWN
from core.method import PairCritic
from core.randomness import KeyedRNG
from core.transfer import near
from probes.probe import Bound, Chart, Entry, Found, Numbers, Probe, Value
from probes.report import sweep_figures
from probes.report.page import bound_charts
from probes.views.critic import refit_scale, train_critics
from probes.views.duplicates import duplicates
from probes.views.sweep import Halved, sweep_over

TRAIN_PAIRS = 16384  # for the common critic
VAL_PAIRS = 2**11 + 1  # also a C of the sweep, so val and test can be compared at one C
UNKNOWN_COPIES = (
    "The images are not known, so copies of an image in the test split could not be left out; a"
    " copy among the negatives lowers the bound"
)
# a bound is notably smaller than another one if it is smaller by more than 0.1 nats, or by more
# than 5% of the larger one
SLACK, SHARE = 0.1, 0.05
HEADLINE = ("common", "native")  # the first of these in a report is shown, whatever its value


class InformationProbe(Probe):
    """InfoNCE bounds by several critics, swept over the number of negatives K."""

    name = "information"
    summary = "InfoNCE lower bounds on I(V1; V2), fresh views of test images, K = 16 to n - 1"
    columns = ("I(V1;V2) ≥ (nats)", "verdict")
    claims = (
        "A lower bound on the information that two views of an image share, on held-out images. It"
        " is computed with the common critic (if there is none, with the method's own) at the"
        " largest K. It can not exceed log(K + 1), and it does not say whether the features are"
        " useful.",
        "What limits the bound: K, the training data, or the critic. Converged: none of these.",
    )
    across = "negatives K"
    charted = ("infonce",)
    panel = "Between views: lower bound on I(V1; V2)"
    schema = """
        "quantity", "estimator", "side", "split", "unit", "images",
        "copies_left_out" (null: the images are not known), "augmentation", "truth" (nats or null),
        "critics": {NAME: {"temperature", "scale", "cap" (nats), "verdict",
            "sweep": [{"K", "candidates", "loss", "bound", "low", "high", "ceiling",
                       "best_possible"?}],
            "certificate"? | "no_certificate"?: {"low", "point", "confidence", "candidates",
                       "blocks", "floor"} or why there is none,
            "overfit"? (value on training pairs minus that on calibration pairs),
            "doubling"?: {"gain", "low", "high", "extrapolated" (not a bound)}}}
        (nats; best_possible: if the truth is known; doubling: all training pairs against half)"""

    def requires(self, frozen: Frozen) -> str:
        return two_views_differ(frozen)

    def measure(self, frozen: Frozen, **options: int) -> Found:
        return Found(information(frozen))

    def cells(self, numbers: Numbers) -> list[str]:
        name, critic = best_critic(numbers)
        last = critic["sweep"][-1]
        half = last["high"] - last["bound"]
        return [f"{last['bound']:.2f} ± {half:.2f} ({name}, K={last['K']:,})", critic["verdict"]]

    def values(self, numbers: Numbers) -> list[Value | str]:
        _, critic = best_critic(numbers)
        last = critic["sweep"][-1]
        return [Value(last["bound"], last["low"], last["high"]), critic["verdict"]]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        critics = numbers["critics"].items()
        return {f"infonce/{key}": critic["sweep"][-1]["bound"] for key, critic in critics}

    def curves(self, numbers: Numbers) -> dict[str, list[tuple[float, float]]]:
        return {
            f"{name} critic": [(row["K"], row["bound"]) for row in critic["sweep"]]
            for name, critic in numbers["critics"].items()
        }

    def sentences(self, numbers: Numbers) -> list[str]:
        found = [_sentence(name, critic) for name, critic in numbers["critics"].items()]
        return found + ([UNKNOWN_COPIES] if numbers.get("copies_left_out", 0) is None else [])

    def plain(self, numbers: Numbers) -> list[str]:
        return bound_charts.said_of_information(numbers, *best_critic(numbers))

    def bounds(self, numbers: Numbers) -> list[Bound]:
        name, critic = best_critic(numbers)
        last = critic["sweep"][-1]
        ends = last["bound"], last["low"], last["high"]
        known = critic["verdict"], numbers["truth"], numbers.get("augmentation", "")
        return [Bound("I(V1; V2)", "lower", f"InfoNCE, {name} critic", *ends, *known)]

    def charts(self, entries: list[Entry]) -> list[Chart]:
        return [bound_charts.sweep(entries, [best_critic(entry.numbers)[0] for entry in entries])]

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        return {"infonce": sweep_figures.sweep(found.numbers, folder / "infonce.png")}

    def draw(self, axes: Axes, entries: list[Entry]) -> None:
        best = [(entry, *best_critic(entry.numbers)) for entry in entries]
        sweeps = [
            (entry._replace(label=f"{entry.label} ({name} critic)"), found["sweep"])
            for entry, name, found in best
        ]
        sweep_figures.draw_sweeps(axes, sweeps)


def information(frozen: Frozen) -> Numbers:
    """Sweeps over C for each critic, on fresh views of the test split.

    - "native": the method's own projection and temperature, if it has them; nothing is fitted.
    - "native, refitted scale": the same codes, with the temperature refitted on val.
    - "common": a small critic, trained on frozen features of train and chosen on val; the same for
      every method.

    The test split is used once and chooses nothing; copies of an image in it are left out. The
    numbers assume that the encoder has seen neither val nor test. This is true for runs of this
    project.
    """
    native = frozen.method if isinstance(frozen.method, PairCritic) else None
    images = frozen.source("test") if frozen.has_images else frozen.images_of
    copies = duplicates(images, frozen.device) if images else None
    train, val = (
        shuffled(frozen.pairs(split, most), frozen.seed)
        for split, most in (("train", TRAIN_PAIRS), ("val", VAL_PAIRS))
    )
    test = shuffled(frozen.pairs("test"), frozen.seed, leave_out=copies)
    temperature = native.temperature if native else None
    return {
        "quantity": "I(V1; V2), between two views of an image",
        "estimator": "InfoNCE, log C - L, one-sided, fresh views, frozen encoder",
        "side": "lower bound",
        "split": "test",
        "unit": "nats",
        "images": len(test.place),
        "copies_left_out": None if copies is None else len(copies),
        "augmentation": frozen.augmentation,
        "truth": frozen.truth.nats if frozen.truth else None,
        "critics": critics(
            *near((train, val, test), frozen.device), temperature, frozen.truth, frozen.seed
        ),
    }


def critics(
    train: Pairs,
    val: Pairs,
    test: Pairs,
    temperature: float | None = None,
    truth: Truth | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """A sweep of the bound on the pairs of test for each critic, in nats.

    `temperature`: the method's own, if its pairs have codes. `truth`: the information, if known.
    """
    found = {}
    if temperature is not None and test.codes and val.codes:
        found["native"] = sweep(test.codes, 1 / temperature, truth)
        refitted = refit_scale(*val.codes, 1 / temperature)
        found["native, refitted scale"] = sweep(test.codes, refitted, truth, val.codes)
        found["native, refitted scale"] |= certified(test.codes, val.codes, refitted)
    common, half = train_critics(train.features, val.features, seed)
    on_test, on_val = (
        (common(pairs.features[0]), common(pairs.features[1])) for pairs in (test, val)
    )
    halved = Halved(half(test.features[0]), half(test.features[1]), half.scale)
    found["common"] = sweep(on_test, common.scale, truth, on_val, halved)
    found["common"] |= certified(on_test, on_val, common.scale)
    overfitted(found["common"], common.overfit)
    surpassed(found)
    return found


def shuffled(pairs: Pairs, seed: int, leave_out: Tensor | None = None) -> Pairs:
    """The pairs in random order, so that neighbours are independent images; without the images
    `leave_out`.
    """
    kept = torch.arange(len(pairs.place))
    if leave_out is not None and len(leave_out):
        kept = kept[~torch.isin(pairs.place, leave_out)]
    return pairs.rows(kept[KeyedRNG(seed, 0).permutation("pairs", len(kept))])


def overfitted(found: dict[str, Any], overfit: float) -> None:
    """Mark a trained critic as data-limited if it would be converged, but its value on training
    pairs is larger than that on other pairs by more than 10% of its bound. Such a critic knows its
    training pairs. The gain from half of the pairs to all of them does not show this if both
    critics are far from the truth: with 256 pairs of 4 contents, the gain is -0.1 nats, and the
    bound is 0.8 of 1.39 nats.
    """
    found["overfit"] = overfit
    last = found["sweep"][-1]
    if found["verdict"] == "converged" and overfit > UNKNOWN * last["bound"]:
        found["verdict"] = "data-limited"


def surpassed(critics: dict[str, Any]) -> None:
    """Mark the critics whose number is limited by the critic itself as critic-limited.

    All bound the same information from below on the same pairs. So a bound that is notably smaller
    than another one is loose. A critic that is not trained here ("native") has no number of
    training pairs that could be doubled, so its sweep alone shows only that K does not limit it. It
    stays converged only if the trained critic ("common") is converged, too, and its interval does
    not reach notably higher.
    """
    ends = {name: found["sweep"][-1] for name, found in critics.items()}
    if not all(math.isfinite(last[end]) for last in ends.values() for end in ("low", "high")):
        raise Unmeasurable("a bound is not a finite number, so critics can not be compared")
    best = max(last["low"] for last in ends.values())
    trained = critics["common"]["verdict"]
    for name, found in critics.items():
        last = ends[name]
        if last["high"] < best - min(SLACK, SHARE * best):
            found["verdict"] = "critic-limited"
        elif name != "common" and found["verdict"] == "converged":
            most = (1 + UNKNOWN) * last["high"]
            if trained != "converged" or ends["common"]["high"] > most:
                found["verdict"] = "critic-limited"


def sweep(
    codes: tuple[Tensor, Tensor],
    scale: float,
    truth: Truth | None = None,
    calibration: tuple[Tensor, Tensor] | None = None,
    halved: Halved | None = None,
) -> dict[str, Any]:
    """The bound for C = 2^4 + 1 … n on codes [n, P] of test, with intervals, ceilings and the
    verdict at the largest C.
    """
    swept = sweep_over(*codes, scale, calibration, halved)
    rows = []
    for c, found in swept.bounds:
        row = {"K": c - 1, "candidates": c, "loss": math.log(c) - found.mean, "bound": found.mean}
        row |= {"low": found.low, "high": found.high, "ceiling": math.log(c)}
        rows.append(row | ({"best_possible": truth.best_infonce(c - 1)} if truth else {}))
    described: dict[str, Any] = {"scale": scale, "temperature": 1 / scale, "cap": swept.cap}
    if gain := swept.gain:
        doubling = {"gain": gain.mean, "low": gain.low, "high": gain.high}
        doubling["extrapolated"] = rows[-1]["bound"] + max(0.0, gain.mean)
        described["doubling"] = doubling
    return described | {"verdict": swept.verdict, "sweep": rows}


def certified(
    codes: tuple[Tensor, Tensor], chosen_on: tuple[Tensor, Tensor], scale: float
) -> dict[str, Any]:
    """The certificate of a critic, or the reason why there is none."""
    try:
        return {"certificate": certificate(codes, chosen_on, scale)._asdict()}
    except Unmeasurable as reason:
        return {"no_certificate": str(reason)}


def best_critic(numbers: Numbers) -> tuple[str, dict[str, Any]]:
    """The headline critic of a report: "common" if it has one."""
    found = numbers["critics"]
    return [(key, found[key]) for key in (*HEADLINE, *found) if key in found][0]


def two_views_differ(frozen: Frozen) -> str:
    """Why two views of an image would be the same, or ""."""
    if frozen.augmentation != "none":
        return ""
    return frozen.same_views


def _sentence(name: str, found: dict[str, Any]) -> str:
    last = found["sweep"][-1]
    best = f", best possible {last['best_possible']:.3f}" if "best_possible" in last else ""
    return (
        f"InfoNCE, {name} critic (T = {found['temperature']:.3f}): I(V1;V2) ≥ {last['bound']:.3f}"
        f" [{last['low']:.3f}, {last['high']:.3f}] nats at K = {last['K']:,};"
        f" ceiling log C = {last['ceiling']:.2f}, cosine cap {found['cap']:.2f}{best}:"
        f" {found['verdict']}{_doubled(found)}{_certified(found)}"
    )


def _doubled(found: dict[str, Any]) -> str:
    if found["verdict"] != "data-limited":
        return ""
    more, overfit = found["doubling"], found.get("overfit", 0.0)
    if more["low"] <= 0:
        if more["high"] <= UNKNOWN * found["sweep"][-1]["bound"] < overfit:
            return f" (on its training pairs, the critic's value is {overfit:.2f} nats larger)"
        high = more["high"]
        return f" (with half of the training pairs, the bound is up to {high:.2f} nats lower)"
    return (
        f" (with half of the training pairs, the bound is {more['gain']:.2f} nats lower;"
        f" extrapolated in 1/n: {more['extrapolated']:.2f}, not a bound)"
    )


def _certified(found: dict[str, Any]) -> str:
    if not (proof := found.get("certificate")):
        return ""
    return (
        f"; certificate: ≥ {proof['low']:.3f} with {100 * proof['confidence']:g}% confidence for"
        f" any distribution ({proof['blocks']:,} blocks of C = {proof['candidates']})"
    )
