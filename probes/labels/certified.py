"""Certificates: upper bounds on the error of a linear probe on new images.

n = images of the bound, D = dimensions, Y = classes, r = principal components.
"""

import functools
import itertools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import Unmeasurable
from core.frozen import Frozen
from core.information import generalisation
from core.information.standardise import (
    mean_and_deviation,
    require_finite_features,
    require_finite_numbers,
    standardised,
)
from core.information.units import nats
from core.randomness import KeyedRNG
from core.run.features import Features
from probes.labels import noisy
from probes.labels.linear import Reader, fitted_reader
from probes.probe import Found, Numbers, Probe, Value, without_labels
from probes.report import figures

DELTA = 0.01
SAMPLED = 0.1  # share of delta that covers the error of the estimate by drawn classifiers
PRIORS = (0.003, 0.01, 0.03, 0.1, 0.3)  # deviations of the prior, joined by a union bound
SHARES = (0.0, 0.5, 1.0)  # parts of the way from the prior's centre to the probe of all images
DRAWS = 4  # classifiers that are drawn for each image, for the reported error
RANKS, STEPS = (2, 4, 8, 16, 32, 64, 128), (0.0625, 0.125, 0.25, 0.5, 1.0)
LEAST = 100  # training images
KINDS = {"pac_bayes": "PAC-Bayes", "occam": "Occam"}  # certificates
NOISY = "noisy"  # the bound on the mean error of a probe that is trained with noise


class Centre(NamedTuple):
    """Linear maps to Y classes; the last column is the bias."""

    weight: Tensor  # float64 [Y, D + 1]


class Posterior(NamedTuple):
    """Classifiers N(centre, deviation^2), with their divergence from the prior in nats."""

    centre: Centre
    deviation: float
    divergence: float


def gibbs_errors(x: Tensor, y: Tensor, posterior: Posterior, seed: int, draws: int) -> float:
    """The share of wrong predictions if a new classifier is drawn for each prediction.

    The logits of an image are independent Gaussians around those of the centre, with the variance
    deviation^2 (|x|^2 + 1), so no weights are drawn. All draws are independent.
    """
    with_one = F.pad(x.double(), (0, 1), value=1.0)
    logits, spread = with_one @ posterior.centre.weight.T, with_one.norm(dim=1, keepdim=True)
    rng, wrong = torch.Generator().manual_seed(seed), 0.0
    for _ in range(draws):
        noise = torch.randn(logits.shape, generator=rng, dtype=torch.float64)
        drawn = logits + posterior.deviation * spread * noise
        wrong += (drawn.argmax(1) != y).double().mean().item()
    return wrong / draws


def pac_bayes(
    x: Tensor, y: Tensor, prior: Centre, own: Centre, seed: int = 0, delta: float = DELTA
) -> tuple[Posterior, float, float]:
    """A posterior, its error on these images [n, D], and the bound on its error on new images.

    Prior N(prior, s^2 I) for five s; posterior N(prior + t (own - prior), s^2 I), so KL(Q || P) =
    t^2 |own - prior|^2 / (2 s^2). `prior` must not depend on these images; `own` may. A union
    bound covers the choice of s. t can be chosen freely, because PAC-Bayes holds for all
    posteriors at once. The error of the chosen posterior is estimated with new draws; a Chernoff
    bound covers this estimate.
    """
    for_draws, n = SAMPLED * delta, len(x)
    rest = (delta - for_draws) / len(PRIORS)
    best, least = Posterior(prior, PRIORS[-1], 0.0), math.inf
    for s, t in itertools.product(PRIORS, SHARES):
        step = t * (own.weight - prior.weight)
        divergence = step.square().sum().item() / (2 * s**2)
        posterior = Posterior(Centre(prior.weight + step), s, divergence)
        error = gibbs_errors(x, y, posterior, seed + 1, 1)
        if (bound := generalisation.pac_bayes(error, divergence, n, rest)) < least:
            best, least = posterior, bound
    error = gibbs_errors(x, y, best, seed, DRAWS)
    upper = generalisation.kl_upper(error, math.log(1 / for_draws) / (DRAWS * n))
    return best, error, generalisation.pac_bayes(upper, best.divergence, n, rest)


class Quantised(NamedTuple):
    """A probe whose weights are integers times a step."""

    numbers: Tensor  # int64 [Y, r + 1]
    step: float
    bits: int

    def errors(self, x: Tensor, y: Tensor) -> float:
        logits = F.linear(x.double(), self.step * self.numbers[:, :-1].double())
        logits += self.step * self.numbers[:, -1].double()
        return (logits.argmax(1) != y).double().mean().item()


def occam(
    x: Tensor, y: Tensor, probes: dict[int, Centre], delta: float = DELTA
) -> tuple[Quantised, int, float, float]:
    """A quantised probe, its rank, its error on these images and the bound on new images.

    probes: for each r, a probe of the first r columns. The length of a quantised probe, in nats, is
    that of a decodable Golomb-Rice code of all weights, plus log(number of pairs of a rank and a
    step).
    """
    best: tuple[Quantised, int, float, float] | None = None
    options = nats(math.log2(len(RANKS) * len(STEPS)))
    for (r, probe), step in itertools.product(probes.items(), STEPS):
        numbers = (probe.weight / step).round().long()
        code = generalisation.rice_encode(numbers.numpy())
        quantised = Quantised(numbers, step, len(code.bits))
        error = quantised.errors(x[:, :r], y)
        bound = generalisation.occam(error, code.nats + options, len(x), delta)
        if best is None or bound < best[3]:
            best = quantised, r, error, bound
    if best is None:
        raise Unmeasurable("certificates: there is no probe to quantise")
    return best


def certified(train: Features, test: Features, seed: int = 0, delta: float = DELTA) -> Numbers:
    """For every factor: two upper bounds on the error of linear probes on new images, each with
    confidence 1 - delta, and the errors of these probes on test. "noisy" is a bound on the mean
    error of a probe that is trained with noise (`probes.labels.noisy`); it is not a certificate.

    A random half of train gives the scale of features, principal components, and the centre of the
    prior. The bounds use the other half, of n images; the probes themselves are fitted to all of
    train. The bounds hold for new images of the same distribution. They assume that the encoder
    was not trained on these images: if it was, features of new images may be different.
    "vacuous": the bound is no better than always guessing the most frequent class. "expected_gap"
    is sqrt(KL / 2n). If KL is the mean divergence over training sets, the mean error on new images
    exceeds the mean error on the n images by at most "expected_gap".

    Raises `Unmeasurable` for fewer than 100 training images and for features that are not finite.
    """
    for name, features in (("training", train), ("test", test)):
        require_finite_features(features.x, f"certificates, {name} images")
    if len(train.x) < LEAST:
        raise Unmeasurable(f"certificates: needs {LEAST} training images, got {len(train.x)}")
    rng = KeyedRNG(seed, 0)
    order = rng.permutation("certificates", len(train.x))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    mean, deviation = mean_and_deviation(train.x[first])
    x, x_test = (standardised(part.x, mean, deviation) for part in (train, test))
    components = _components(x[first])
    read, read_test = x @ components, x_test @ components
    ranks = [r for r in RANKS if r <= components.shape[1]] or [components.shape[1]]
    factors = {}
    for column, (factor, classes) in enumerate(train.factors):
        y, y_test = train.y[:, column], test.y[:, column]
        guess = 1 - torch.bincount(y, minlength=classes).max().item() / len(y)
        entry = functools.partial(_entry, guess=guess, images=len(y_test), delta=delta)
        own, prior = (_centre(x[rows], y[rows], classes) for rows in (order, first))
        chosen, error, bound = pac_bayes(x[second], y[second], prior, own, seed, delta)
        found = entry(error, bound, gibbs_errors(x_test, y_test, chosen, seed, DRAWS))
        found |= {"divergence": chosen.divergence, "deviation": chosen.deviation}
        found |= {"expected_gap": generalisation.expected_gap(chosen.divergence, len(second))}
        probes = {r: _centre(read[order, :r].contiguous(), y[order], classes) for r in ranks}
        quantised, r, error, bound = occam(read[second], y[second], probes, delta)
        short = entry(error, bound, quantised.errors(read_test[:, :r], y_test))
        short |= {"bits": quantised.bits, "rank": r, "step": quantised.step}
        parts = ((read[first], y[first]), (read[second], y[second]), (read_test, y_test))
        levels = noisy.levels(*parts, classes, rng.fork(f"noisy {factor}"))
        level, bound = noisy.best(levels, len(second))
        trained = entry(level.error, bound, level.test)
        trained |= {"noise": level.noise, "information": level.information}
        trained |= {"levels": [one._asdict() for one in levels]}
        factors[factor] = {"pac_bayes": found, "occam": short, NOISY: trained}
    made = {"factor": factors, "confidence": 1 - delta, "images": len(second)}
    require_finite_numbers(made, "certificates")
    return made


def _entry(
    error: float, bound: float, test: float, guess: float, images: int, delta: float
) -> Numbers:
    """The numbers of one bound in a report. `guess` is the error of guessing the most frequent
    class, and `images` is the number of test images.
    """
    low, high = generalisation.error_interval(test, images, delta)
    found = {"error": error, "bound": bound, "test": test, "test_low": low, "test_high": high}
    return found | {"vacuous": int(bound >= guess)}


def _components(x: Tensor) -> Tensor:
    """Principal directions [D, r] of x, scaled so that each component has deviation 1."""
    values, vectors = torch.linalg.eigh(x.double().T @ x.double() / len(x))
    kept = values.flip(0)[: max(RANKS)]
    kept = kept[kept > 1e-6 * kept[0]]
    return (vectors.flip(1)[:, : len(kept)] / kept.sqrt()).float()


def _centre(x: Tensor, y: Tensor, classes: int) -> Centre:
    """A fitted linear probe; a class without images has the weights 0 and a low bias."""
    reader: Reader = fitted_reader(x, y, classes)
    weight = torch.zeros(classes, x.shape[1] + 1, dtype=torch.float64)
    weight[:, -1] = -30.0
    weight[reader.present] = torch.cat([reader.weight, reader.bias[:, None]], 1).double()
    weight[reader.present] -= weight[reader.present].mean(0)  # changes no prediction
    return Centre(weight)


class CertifiedProbe(Probe):
    """Upper bounds on the error on new images, with 99 % confidence."""

    name, on_request = "certified", True
    summary = "bounds on the error of linear probes on new images: PAC-Bayes, Occam in real bits"
    columns = ("PAC-Bayes error % ≤", "Occam error % ≤")
    schema = """
        "factor": {FACTOR: {"pac_bayes" | "occam" | "noisy": {"error" (on the images of the bound),
        "bound" ("noisy": on the mean error), "test" (error on test), "test_low", "test_high" (its
        limits with the same confidence), "vacuous" (0 | 1), "divergence" (nats), "deviation",
        "expected_gap" | "bits", "rank", "step" | "noise" (deviation in each step), "information"
        (upper bound on I(S; W), nats),
        "levels": [{"noise", "information", "gap", "error", "test"}]}}},
        "confidence", "images" (of the bound) """

    def requires(self, frozen: Frozen) -> str:
        return without_labels(frozen)

    def measure(self, frozen: Frozen, **options: int) -> Found:
        train, test = (frozen.features(split) for split in ("trainval", "test"))
        return Found(certified(train, test, frozen.seed))

    def cells(self, numbers: Numbers) -> list[str]:
        return [f"{100 * _mean(numbers, kind):.1f}" for kind in KINDS]

    def values(self, numbers: Numbers) -> list[Value | str]:
        return [Value(100 * _mean(numbers, kind), digits=1) for kind in KINDS]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {f"certified/{kind}": _mean(numbers, kind) for kind in KINDS}

    def sentences(self, numbers: Numbers) -> list[str]:
        lines, share = [], f"{100 * numbers['confidence']:.0f} %"
        for factor, parts in numbers["factor"].items():
            for kind, name in KINDS.items():
                part = parts[kind]
                paid = (
                    f"KL {part['divergence']:.0f} nats"
                    if kind == "pac_bayes"
                    else f"{part['bits']:,} bits, {part['rank']} components"
                )
                lines.append(
                    f"{name} certificate of {factor}: error on new images at most"
                    f" {100 * part['bound']:.1f} % with {share} confidence ({paid},"
                    f" {numbers['images']:,} images); {_tested(part, share)}"
                )
            if part := parts.get(NOISY):
                rise = 100 * (part["bound"] - part["error"])
                lines.append(
                    f"probe of {factor} trained with noise {part['noise']:g}: its weights hold at"
                    f" most {part['information']:.1f} nats about {numbers['images']:,} images, so"
                    f" its mean error on new images is at most {100 * part['error']:.1f} +"
                    f" {rise:.1f} = {100 * part['bound']:.1f} % (this bounds the mean over training"
                    f" sets; it is not a certificate); {_tested(part, share)}"
                )
        return [*lines, "certificates assume an encoder that was not trained on these images"]

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        """Bars of the error on test, each with its bound; and the effect of training noise."""
        made = {"certified": draw(found.numbers, folder / "certified.png")}
        return made | {"noise": draw_levels(found.numbers, folder / "noise.png")}


def _tested(part: Numbers, share: str) -> str:
    limits = (
        f" [{100 * part['test_low']:.1f}, {100 * part['test_high']:.1f}], {share} interval"
        if "test_low" in part
        else ""
    )
    vacuous = "; vacuous: guessing is as good" if part["vacuous"] > 0 else ""
    return f"on test {100 * part['test']:.1f} %{limits}{vacuous}"


def draw(numbers: Numbers, path: Path) -> Path:
    """Bars for each factor, with a line at the bound and the interval of the test error."""
    factors, kinds = list(numbers["factor"]), KINDS | {NOISY: "trained with noise"}
    with figures.picture(path, figsize=(max(6.5, 1.9 + 1.5 * len(factors)), 4.2)) as (_, axes):
        for number, (kind, name) in enumerate(kinds.items()):
            places = np.arange(len(factors)) + 0.28 * (number - 1)
            parts = [numbers["factor"][factor][kind] for factor in factors]
            colour = figures.COLOURS[number]
            errors = [100 * part["test"] for part in parts]
            ends = [[100 * abs(part[end] - part["test"]) for part in parts]
                    for end in ("test_low", "test_high")]  # fmt: skip
            axes.bar(places, errors, 0.24, color=colour, alpha=0.6, label=f"{name}: test error",
                     yerr=ends, ecolor=colour)  # fmt: skip
            bounds = [100 * part["bound"] for part in parts]
            label = f"{name}: at most" + (", on average" if kind == NOISY else "")
            axes.hlines(bounds, places - 0.13, places + 0.13, color=colour, lw=2.5, label=label)
        axes.set_xticks(range(len(factors)), [figures.drawable(factor) for factor in factors])
        share = 100 * numbers["confidence"]
        axes.set(ylabel="error on new images, %", title=f"Certificates, {share:.0f} % confidence")
        axes.set_ylim(bottom=0)
        figures.legend(axes)
    return path


def draw_levels(numbers: Numbers, path: Path) -> Path:
    """For probes trained with noise: the gap and its bound, and errors, against I(S; W)."""
    with figures.picture(path, 1, 2, figsize=(9.6, 3.9)) as (_, (left, right)):
        for number, (factor, parts) in enumerate(numbers["factor"].items()):
            look = {"color": figures.COLOURS[number % len(figures.COLOURS)], "marker": "o"}
            levels, name = parts[NOISY]["levels"], figures.drawable(factor)
            x = [level["information"] for level in levels]
            gaps = [100 * (level["test"] - level["error"]) for level in levels]
            left.plot(x, gaps, label=f"{name}: test - training error", **look)
            left.plot(x, [100 * level["gap"] for level in levels], "--", label="bound", **look)
            right.plot(x, [100 * level["test"] for level in levels], label=f"{name}: test", **look)
            right.plot(
                x, [100 * level["error"] for level in levels], "--", label="training", **look
            )
        left.axhline(0, color=figures.GREY, lw=0.8)
        left.set(xscale="log", xlabel="I(S; W) at most, nats", ylabel="gap, %")
        left.set_title("Less noise: weights hold more nats, gap may be larger", fontsize=10)
        right.set(xscale="log", xlabel="I(S; W) at most, nats", ylabel="error, %")
        right.set_title("Less noise: smaller errors", fontsize=10)
        for axes in (left, right):
            axes.legend(frameon=False, fontsize=8)
    return path


def _mean(numbers: Numbers, kind: str) -> float:
    parts = [part[kind]["bound"] for part in numbers["factor"].values()]
    return float(sum(parts) / len(parts))
