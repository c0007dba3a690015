"""Rate and distortion of a VAE on held-out images, bounds on I(X; Z), and the parts of the rate.

n = images of the test split, L = latent dimensions, d = values of an image.
"""

import math
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from core.errors import Unmeasurable
from core.frozen import Frozen, Latents
from core.information.bounds import interval, sandwich
from core.information.codes import codes, joined
from core.information.collapse import active_units, collapse_status
from core.information.scores import gaussian
from core.method import LatentModel
from probes.latents import curve
from probes.latents.rate_parts import at_most, decomposition, dimension_rates
from probes.probe import Bound, Chart, Entry, Found, Numbers, Probe, Value
from probes.report import figures
from probes.report.page import rate_charts
from probes.report.schema import bits, entry

BLOCK = 512  # images whose rate is computed at a time
CANDIDATES = 16_384  # images for the bounds on I(X; Z), which compare all pairs; R and D use all
PARTS = {"total_correlation": "total correlation", "dimension_wise_kl": "dimension-wise KL"}


class RateProbe(Probe):
    """R, D and D + R of a VAE, bounds on I(X; Z), and the parts of the rate."""

    name = "rate"
    summary = "R, D, D + R, bounds on I(X; Z), active units, the rate of each dimension (VAEs)"
    columns = ("I(X;Z): at least … at most (nats)", "R (nats)", "D + R ≥ -log p(x) (nats)")
    claims = (
        "The information between an image and its code lies between these two numbers. The lower"
        " one can not exceed log n for n images.",
        "The rate, an upper bound on I(X; Z): I(X; Z) + KL(q(z)‖p(z)). It does not say how good"
        " reconstructions are, or what the information is about.",
        "The sum of distortion and rate (beta = 1), an upper bound on -log p(x). For continuous"
        " pixels it may be negative, and it is comparable only among decoders of the same"
        " likelihood.",
    )
    panel = "Input and code: bounds on I(X; Z)"
    schema = """
        "quantity", "split", "unit", "images", "image_values", "ceiling", "active_units",
        "latent_dimensions", "rate" | "distortion"? | "nelbo"? | "lower" | "upper": {"value", "low",
            "high", "bits_per_dim"? (of discrete pixels), "estimator", "side"},
        "marginal_kl" | "total_correlation" | "dimension_wise_kl"?: {"quantity", "low", "high"},
        "dimension_rates"? [nats of each dimension], "sentence"? (if the code has collapsed),
        "reference"?: {"quantity", "points": [{"rate", "distortion"}]} (R(D), if it is known),
        "on_these_images": {"quantity", "images",
            "rate" | "information" | "total_correlation" | "dimension_wise_kl"?:
                {"value", "low", "high"}}   (distortion, nelbo: if D is known;
        dimension_wise_kl, dimension_rates: if the prior is a product of normals)"""

    def requires(self, frozen: Frozen) -> str:
        return posterior(frozen)

    def measure(self, frozen: Frozen, **options: int) -> Found:
        method = frozen.method
        assert isinstance(method, LatentModel)
        parts = frozen.latents("test")
        moved: list[Any] = [x if x is None else x.to(frozen.device) for x in parts]
        latents = Latents(*moved)
        values = math.prod(frozen.source("test").shape)
        found = rate(latents, method.prior(), values, method.discrete())
        if known := curve.reference(frozen.run):
            found["reference"] = {"quantity": "R(D) of the data", "points": known.drawn()}
        return Found(found)

    def cells(self, numbers: Numbers) -> list[str]:
        r = numbers["rate"]["value"]
        top = min(numbers["upper"]["value"], r)
        within = f"{numbers['lower']['value']:.2f} … {top:.2f}"
        total = f"{numbers['nelbo']['value']:,.1f}" if "nelbo" in numbers else "–"
        return [within, f"{r:.2f}", total]

    def values(self, numbers: Numbers) -> list[Value | str]:
        r, total, upper = numbers["rate"], numbers.get("nelbo"), numbers["upper"]
        return [
            Value(None, numbers["lower"]["value"], min(upper["value"], r["value"])),
            Value(r["value"], r["low"], r["high"]),
            Value(total["value"], total["low"], total["high"], digits=1) if total else "–",
        ]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        keys = ("rate", "distortion", "nelbo", "lower", "upper")
        named = {key: numbers[key]["value"] for key in keys if key in numbers}
        named["active_units"] = numbers["active_units"]
        for key, part in numbers.get("on_these_images", {}).items():
            if isinstance(part, dict):
                named[f"on_these_images/{key}"] = part["value"]
        return named

    def sentences(self, numbers: Numbers) -> list[str]:
        r, lower, upper, kl = (numbers[k] for k in ("rate", "lower", "upper", "marginal_kl"))
        high, rest = min(upper["value"], r["value"]), " nats; D is not known"
        if total := numbers.get("nelbo"):
            d = numbers["distortion"]["value"]
            rest = f", D = {d:,.2f}, D + R = {total['value']:,.2f} nats{bits(total, 3)}"
        lines = [
            f"R = {r['value']:.3f}{rest}",
            f"{lower['value']:.3f} ≤ I(X;Z) ≤ {high:.3f} (leave-one-out {upper['value']:.3f},"
            f" R {r['value']:.3f}; ceiling of the lower bound {numbers['ceiling']:.2f})",
            f"{kl['low']:.3f} ≤ KL(q(z)‖p(z)) ≤ {kl['high']:.3f}; {numbers['active_units']} of"
            f" {numbers['latent_dimensions']} units active",
        ]
        lines += [_parts(numbers)] if "total_correlation" in numbers else []
        return lines + ([numbers["sentence"]] if "sentence" in numbers else [])

    def plain(self, numbers: Numbers) -> list[str]:
        return rate_charts.said_of_rate(numbers)

    def bounds(self, numbers: Numbers) -> list[Bound]:
        named = {"lower": "lower", "upper": "upper, leave-one-out", "rate": "rate R"}
        found = []
        for key, name in named.items():
            ends = (numbers[key][end] for end in ("value", "low", "high"))
            side = "lower" if key == "lower" else "upper"
            bound = Bound("I(X; Z)", side, name, *ends)
            found.append(bound._replace(ceiling=numbers["ceiling"]) if side == "lower" else bound)
        return found

    def charts(self, entries: list[Entry]) -> list[Chart]:
        return rate_charts.plane(entries)

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        made = {}
        if rates := found.numbers.get("dimension_rates"):
            made["dimensions"] = figures.dimensions(rates, folder / "dimensions.png")
        return made | frozen.figures(folder)

    def draw(self, axes: Axes, entries: list[Entry]) -> None:
        figures.draw_rates(axes, entries)


def posterior(frozen: Frozen) -> str:
    """Why a method has no rate, or ""."""
    if isinstance(frozen.method, LatentModel):
        return ""
    return f"{frozen.run.method} has no posterior"


@torch.no_grad()
def rate(latents: Latents, prior: Distribution, values: int, discrete: bool) -> dict[str, Any]:
    """R, D and D + R in nats an image and bits a dimension, with intervals, from one posterior
    sample of each image. Images have `values` values, which may be `discrete` (8 bits, or binary).

        R = E KL(q(z|x) || p(z)) = I_q(X; Z) + KL(q(z) || p(z)),   D = E -log p(x|z),
        D + R >= -E log p(x),   lower <= I_q(X; Z) <= min(upper, R)

    Hoffman & Johnson 2016; Poole et al. 2019.
    """
    if len(latents.z) < 2:
        raise Unmeasurable("rate: its bounds compare images, so it needs 2 or more")
    parts = []
    for mean, sigma, z in zip(*(x.split(BLOCK) for x in latents[:3]), strict=True):
        normals = Normal(mean, sigma, validate_args=False)
        parts.append(codes(Independent(normals, 1, validate_args=False), z, prior))
    read = joined(parts)
    d = latents.distortion
    r, among = read.rate, at_most(read, CANDIDATES)
    pairs = gaussian(among.mean, among.sigma, among.z)
    lower, upper = (interval(*bound) for bound in sandwich(pairs))
    of_rate, of_bits = decomposition(read, prior, pairs), values if discrete else None
    estimate, n = interval(r), len(among.z)
    one_z = "log q(z|x) - log p(z), one z an image"
    estimator = "closed-form KL(q(z|x) || p(z))" if read.closed else one_z
    of_lower = f"tractable q(z|x), {n} candidates"
    of_upper = f"tractable q(z|x), leave-one-out, {n} candidates"
    # the sampling noise of R: the parts use one z an image, but R may be a closed form
    noise = of_rate["on_these_images"]["rate"]["value"] - estimate.mean
    least_kl = (
        of_rate["dimension_wise_kl"]["low"] - noise if "dimension_wise_kl" in of_rate else 0.0
    )
    found = {
        "quantity": "I(X; Z), between an image and its code",
        "split": "test",
        "unit": "nats an image",
        "images": len(r),
        "image_values": values,
        "rate": entry(estimate, estimator, "upper bound on I(X; Z)", of_bits),
        **(_distortion(r, d, of_bits) if d is not None else {}),
        "lower": entry(lower, of_lower, "lower bound on I(X; Z)", of_bits),
        "upper": entry(upper, of_upper, "upper bound on I(X; Z)", of_bits),
        "ceiling": math.log(n),
        "marginal_kl": {
            "quantity": "KL(q(z) || p(z))",
            "low": max(0.0, estimate.mean - upper.mean, least_kl),
            "high": max(0.0, estimate.mean - lower.mean),
        },
        "active_units": active_units(read.mean),
        "latent_dimensions": read.mean.shape[1],
    }
    if sentence := collapse_status(read, upper.mean).sentence:
        found["sentence"] = sentence
    if of_dimensions := dimension_rates(read, prior):
        found["dimension_rates"] = of_dimensions
    return found | of_rate


def _distortion(r: Tensor, d: Tensor, of_bits: int | None) -> dict[str, Any]:
    """D and D + R of images with these rates and distortions [n]."""
    return {
        "distortion": entry(interval(d), "-log p(x|z), one z an image", "cross-entropy", of_bits),
        "nelbo": entry(interval(r + d), "D + R at beta 1", "upper bound on -log p(x)", of_bits),
    }


def _parts(numbers: Numbers) -> str:
    """The parts of the rate: bounds for all images, and values for the images that were used."""
    parts = numbers["on_these_images"]
    of_all = ", ".join(
        f"{numbers[key]['low']:.3f} ≤ {word} ≤ {numbers[key]['high']:.3f}"
        for key, word in PARTS.items()
        if key in numbers
    )
    named = ({"information": "I"} | PARTS).items()
    terms = [f"{word} {parts[key]['value']:.3f}" for key, word in named if key in parts]
    whole = ", ".join(terms)
    if "dimension_wise_kl" in parts:
        whole = f"R {parts['rate']['value']:.3f} = {' + '.join(terms)}"
    note = ""
    if parts["information"]["value"] > math.log(parts["images"]) - 1:
        note = (
            "; I of n images can not exceed log n, and is near it: information beyond log n"
            " appears in the total correlation"
        )
    return f"{of_all}; for these {parts['images']:,} images alone: {whole}{note}"
