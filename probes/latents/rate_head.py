"""The rate-distortion curve of frozen features: one head is trained for each beta, the price of a
nat of rate. The betas are the same for all encoders.

Features h of an image x are compressed to z ~ q(z|h), a diagonal Gaussian, and p(x|z) decodes the
image from z alone. A head minimises D + beta R, in nats an image, with

    R = E KL(q(z|h) || N(0, 1)) >= I(X; Z),   D = E E_q[-log p(x|z)],   D + R >= -E log p(x)

"nothing" is the left end of the curve, beta = infinity: R = 0, and D is the cross-entropy of a
decoder with constant input (Alemi et al. 2018). All points are upper bounds: a better head may find
a lower curve.

n = images, F = feature dimensions, L = latent dimensions, C H W = image shape, d = C H W.
"""

import copy
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from core.console import steps_left
from core.data.source import eval_sampler, train_sampler
from core.frozen import Frozen
from core.information.bounds import interval
from core.information.standardise import mean_and_deviation, standardised
from core.information.units import bits_per_dim
from core.matmul import speed_up
from core.networks.decoders import MLPDecoder
from core.networks.likelihoods import Likelihood, kl_from_standard_normal
from core.randomness import KeyedRNG
from probes.probe import Chart, Entry, Found, Numbers, Probe
from probes.report import figures
from probes.report.page import rate_charts
from probes.report.schema import bounds

BETAS = (1.0, 5.0, 25.0, 125.0, 625.0)
MAX_IMAGES = {"train": 10_000, "val": 2_048, "test": 10_000}  # evenly spread over the split
BATCH, LATENT, WIDTH = 128, 32, 256
# steps and learning rate: of the constant decoder, of the first head, and of each later head
NOTHING, FIRST, NEXT = (300, 0.3), (900, 4e-3), (150, 4e-3)
WARMUP, CHECKS = 20, 3  # warm-up steps; evaluations on val during a fit


class Seen(NamedTuple):
    """Images of a split and their frozen features."""

    features: Tensor  # float32 [n, F]
    images: Tensor  # uint8, or floats in [0, 1], [n, C, H, W]


class Fitted(NamedTuple):
    """A trained head, and its mean R and D on val."""

    head: "ConstantDecoder | RateHead"
    rate: float
    distortion: float

    def cost(self, beta: float) -> float:
        """D + beta R on val, in nats an image."""
        return self.distortion + beta * self.rate


class ConstantDecoder(nn.Module):
    """p(x) with independent values: a decoder whose input is constant."""

    def __init__(self, shape: tuple[int, ...], likelihood: Likelihood):
        super().__init__()
        self.likelihood = copy.deepcopy(likelihood)
        self.parameters_of_x = nn.Parameter(torch.zeros(1, *shape))

    def forward(self, features: Tensor, x: Tensor, rng: KeyedRNG) -> tuple[Tensor, Tensor]:
        """R = 0 and -log p(x), [B] each, in nats an image."""
        given = self.likelihood(self.parameters_of_x.expand_as(x))
        distortion = -given.log_prob(x).flatten(1).sum(1)
        return torch.zeros_like(distortion), distortion


class RateHead(nn.Module):
    """q(z|h), a linear map plus a two-layer net on standardised features, and a decoder whose
    output is added to that of the constant decoder `nothing`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: Tensor, nothing: ConstantDecoder):
        super().__init__()
        mean, deviation = mean_and_deviation(features)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.skip = nn.Linear(len(mean), 2 * LATENT)
        layers = nn.Linear(len(mean), WIDTH), nn.GELU(), nn.Linear(WIDTH, 2 * LATENT)
        self.net = nn.Sequential(*layers)
        # a convolutional decoder reached the same curve in twice the time, and works only if sides
        # are multiples of 4
        self.decoder = MLPDecoder(LATENT, tuple(nothing.parameters_of_x.shape[1:]), WIDTH)  # type: ignore[arg-type]
        self.likelihood = copy.deepcopy(nothing.likelihood)
        self.parameters_of_x = copy.deepcopy(nothing.parameters_of_x)

    def forward(self, features: Tensor, x: Tensor, rng: KeyedRNG) -> tuple[Tensor, Tensor]:
        """KL(q(z|h) || p(z)) and -log p(x|z) for one z an image, [B] each, in nats an image."""
        h = standardised(features, self.mean, self.deviation)
        mean, log_sigma = (self.skip(h) + self.net(h)).chunk(2, 1)
        log_sigma = log_sigma.clamp(-7, 3)
        z = mean + log_sigma.exp() * rng.normal("posterior", *mean.shape)
        given_z = self.likelihood(self.parameters_of_x + self.decoder(z))
        distortion = -given_z.log_prob(x).flatten(1).sum(1)
        return kl_from_standard_normal(mean, log_sigma).sum(1), distortion


def rate_head(frozen: Frozen) -> dict[str, Any]:
    """The R(D) curve of a checkpoint's features of plain images. The likelihood is the 8-bit
    discretised logistic for every method.
    """
    train, val, test = (see(frozen, split, most) for split, most in MAX_IMAGES.items())
    likelihood = Likelihood("logistic", train.images.shape[1])
    return {
        "quantity": "I(X; Z), between an image and a code of its frozen features, against -log"
        " p(x|z)",
        "likelihood": "8-bit discretised logistic, one scale a channel",
        "estimator": "closed-form KL(q(z|h) || p(z)); -log p(x|z), one z an image",
        "side": "R: upper bound on I(X; Z); D: cross-entropy; D + R: upper bound on -log p(x)",
        "split": "test",
        "unit": "nats an image",
    } | measure_curve(train, val, test, likelihood, frozen.seed)


@torch.no_grad()
def see(frozen: Frozen, split: str, most: int) -> Seen:
    """Images of a split, and the features of exactly these images."""
    source = frozen.source(split)
    sampler = eval_sampler(
        len(source), frozen.seed, device=frozen.device, purpose="rate head", most=most
    )
    parts = [
        (frozen.method.embed(batch.views[0]).float(), batch.views[0])
        for batch in frozen.watched(f"images of {split}", source, sampler)
    ]
    features, images = zip(*parts, strict=True)
    return Seen(torch.cat(features), torch.cat(images))


def measure_curve(
    train: Seen,
    val: Seen,
    test: Seen,
    likelihood: Likelihood,
    seed: int = 0,
    betas: tuple[float, ...] = BETAS,
) -> dict[str, Any]:
    """R, D and D + R on test for each beta, and for the constant decoder, with 95% intervals over
    test images.

    The heads are trained on train and chosen on val; nothing is chosen on test.
    """
    nothing, heads = train_heads(train, val, likelihood, seed, betas)
    values = math.prod(test.images.shape[1:])
    return {
        "images": len(test.images),
        "train_images": len(train.images),
        "image_values": values,
        "latent_dimensions": LATENT,
        "points": [
            {"beta": beta} | _point(head, test, seed, values)
            for beta, head in zip(betas, heads, strict=True)
        ],
        "nothing": _point(nothing, test, seed, values),
    }


def train_heads(
    train: Seen, val: Seen, likelihood: Likelihood, seed: int, betas: tuple[float, ...]
) -> tuple[ConstantDecoder, list[ConstantDecoder | RateHead]]:
    """For each beta, the head of least D + beta R on val, among all trained heads and `nothing`.

    So on val, R never rises and D never falls with beta, and no point costs more than `nothing`.
    Betas are visited first in ascending order, because a decoder learns slowly from an almost empty
    code, but quickly drops information that costs too much. Then they are visited in descending
    order, because the first heads had the least training. Each visit of a beta starts from a copy
    of the head that is the best at this beta so far.
    """
    if list(betas) != sorted(set(betas)):
        raise ValueError(f"betas: must ascend, got {betas}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        nothing = ConstantDecoder(tuple(train.images.shape[1:]), likelihood).to(train.images.device)
        without = fit(nothing, train, val, 0.0, seed, 0, *NOTHING)
        fresh = speed_up(RateHead(train.features, nothing)).to(train.images.device)
    heads: list[Fitted] = []
    start, budget = NOTHING[0], FIRST
    for beta in (*betas, *reversed(betas)):
        head = copy.deepcopy(best(heads, beta)) if heads else fresh
        heads.append(fit(head, train, val, beta, seed, start, *budget))
        start, budget = start + budget[0], NEXT
    return nothing, [best([without, *heads], beta) for beta in betas]


def best(fitted: list[Fitted], beta: float) -> ConstantDecoder | RateHead:
    """The head of least D + beta R on val; the first one if several are equal."""
    return min(fitted, key=lambda found: found.cost(beta)).head


def fit(
    head: ConstantDecoder | RateHead,
    train: Seen,
    val: Seen,
    beta: float,
    seed: int,
    start: int,
    steps: int,
    lr: float,
) -> Fitted:
    """Minimise D + beta R by Adam on batches `start` to `start + steps`, and keep the weights that
    are best on val.
    """
    optimizer = torch.optim.Adam(head.requires_grad_(True).parameters(), lr=lr)
    found, kept = Fitted(head, 0.0, math.inf), copy.deepcopy(head.state_dict())
    n, device = len(train.images), train.images.device
    batches = train_sampler(n, min(BATCH, n), seed, start, start + steps, device=device)
    line = steps_left(steps, f"rate head, beta {beta:g}")
    for number, (_, (index, rng)) in enumerate(zip(line, batches, strict=True), 1):
        for group in optimizer.param_groups:  # a short warm-up, then a cosine to zero
            cosine = 1 + math.cos(math.pi * number / (steps + 1))
            group["lr"] = lr * min(1.0, number / WARMUP) * cosine / 2
        r, d = score(head, train, index, rng.fork("rate head"))
        optimizer.zero_grad()
        (d + beta * r).mean().backward()
        optimizer.step()
        if number % (steps // CHECKS) == 0:
            on_val = (x.mean().item() for x in measure(head, val, seed, "rate head, val"))
            now = Fitted(head, *on_val)
            if now.cost(beta) < found.cost(beta):
                found, kept = now, copy.deepcopy(head.state_dict())
    head.load_state_dict(kept)
    head.requires_grad_(False)
    return found


def score(
    head: ConstantDecoder | RateHead, seen: Seen, index: Tensor, rng: KeyedRNG
) -> tuple[Tensor, Tensor]:
    """R and D of the images at `index`, [B] each, in nats an image."""
    index = index.to(seen.images.device)
    image = seen.images[index]
    target = head.likelihood.target(image, rng.uniform("dequantise", *image.shape))
    return head(seen.features[index], target, rng)


@torch.no_grad()
def measure(
    head: ConstantDecoder | RateHead, seen: Seen, seed: int, purpose: str
) -> tuple[Tensor, Tensor]:
    """R and D of every image, [n] each, in nats; the random draws are the same for every head."""
    order = eval_sampler(len(seen.images), seed, device=seen.images.device, purpose=purpose)
    r, d = zip(*(score(head, seen, index, rng) for index, rng in order), strict=True)
    return torch.cat(r), torch.cat(d)


def _point(head: ConstantDecoder | RateHead, test: Seen, seed: int, values: int) -> dict[str, Any]:
    r, d = measure(head, test, seed, "rate head, test")
    named = {"rate": interval(r), "distortion": interval(d), "nelbo": interval(r + d)}
    entries: dict[str, Any] = {name: bounds(found) for name, found in named.items()}
    return entries | {"bits_per_dim": bits_per_dim(named["nelbo"].mean, values)}


class RateHeadProbe(Probe):
    """The rate-distortion curve of frozen features: one head trained per beta."""

    name = "rate_head"
    summary = "rate-distortion curve of frozen features, one trained head per beta"
    on_request = True
    charted = ("rate_distortion",)
    schema = """
        "quantity", "likelihood", "estimator", "side", "split", "unit", "images", "train_images",
        "image_values", "latent_dimensions", "points": [{"beta", POINT}], "nothing": {POINT};
        POINT: "rate" | "distortion" | "nelbo": {"value", "low", "high"},
               "bits_per_dim" (of nelbo)"""

    def measure(self, frozen: Frozen, **options: int) -> Found:
        return Found(rate_head(frozen))

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {
            f"rate_head/{key}_beta{point['beta']:g}": point[key]["value"]
            for point in numbers["points"]
            for key in ("rate", "distortion")
        }

    def sentences(self, numbers: Numbers) -> list[str]:
        points = reversed(numbers["points"])
        curve = [("no code", numbers["nothing"]), *((f"β {p['beta']:g}", p) for p in points)]
        pairs = (
            f"{label} {p['rate']['value']:.2f} / {p['distortion']['value']:,.1f}"
            for label, p in curve
        )
        head = f"rate head on {numbers['train_images']:,} images, {numbers['likelihood']}"
        return [f"{head}, R / D in nats: {' · '.join(pairs)}"]

    def charts(self, entries: list[Entry]) -> list[Chart]:
        return [rate_charts.heads(entries)]

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        picture = folder / "rate_distortion.png"
        return {"rate_distortion": figures.head_curves([("features", found.numbers)], picture)}
