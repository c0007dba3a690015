"""Bounds on log p(x) of a VAE that are tighter than the ELBO: importance weights and annealing.

The ELBO bounds the size of a bits-back file, and these bounds do not, so every report gives the
ELBO first. All values are in nats an image. n = images, B = images of a batch, S = samples (or
chains) of each image, L = latent dimensions.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from core.data.source import eval_sampler
from core.frozen import Frozen
from core.information.bounds import interval
from core.information.codes import Coded, coded
from core.method import LatentModel
from core.randomness import KeyedRNG
from probes.latents.annealing import LEAPS, SHARPNESS, anneal
from probes.latents.rate import posterior
from probes.probe import Found, Numbers, Probe
from probes.report.schema import bits, bounds, entry

ROWS = 1024  # codes that are decoded at a time
BLOCK = 64  # images in a batch; with the same option `images`, both probes read the same pixels
SIDE = "upper bound on -log p(x), in expectation"


class Weighed(NamedTuple):
    """Bounds on log p(x) of B images from S importance weights w = p(x, z) / q(z|x) of each."""

    # k -> [B] for k = 1, 10, 100 ... and S: weights are put into groups of k, and the value is the
    # mean over groups of log (1/k) sum w; k = 1 gives the ELBO
    bounds: dict[int, Tensor]
    effective: Tensor  # [B], (sum w)^2 / sum w^2, from 1 to S


@torch.no_grad()
def likelihood(frozen: Frozen, k: int, images: int) -> dict[str, Any]:
    """The importance-weighted bound on log p(x) with k samples (Burda et al. 2016), for images
    spread over the test split.

        log p(x) >= E log (1/k) sum_s p(x, z_s) / q(z_s|x),   z_s ~ q(z|x)

    It is the ELBO at k = 1, never decreases with k, and tends to log p(x). The report gives upper
    bounds on -log p(x).
    """
    method = _model(frozen)
    parts = [
        importance_weights(joint_of(method, x), q, k, _rng(frozen, number).fork("likelihood"))
        for number, (x, q, _) in enumerate(_coded_images(frozen, images))
    ]
    read = {count: torch.cat([part.bounds[count] for part in parts]) for count in parts[0].bounds}
    numbers, values = _described(frozen, len(read[k]))
    weighted = f"importance-weighted, k = {k}"
    return numbers | {
        "k": k,
        "nelbo": entry(interval(-read[1]), f"-ELBO, {k} codes an image", SIDE, values),
        "importance_weighted": entry(interval(-read[k]), weighted, SIDE, values),
        "gain": bounds(interval(read[k] - read[1])),
        "sweep": [{"k": count} | bounds(interval(-terms)) for count, terms in read.items()],
        "effective_samples": torch.cat([part.effective for part in parts]).mean().item(),
    }


def joint_of(method: LatentModel, x: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that maps codes z [S, B, L] to log p(x, z) for images x [B, C, H, W]: float64
    [S, B], in nats.
    """
    prior = method.prior()

    def log_joint(z: Tensor) -> Tensor:
        flat = z.flatten(0, 1)
        images = x.expand(len(z), *x.shape).flatten(0, 1)
        given_z = method.likelihood(flat).log_prob(images).flatten(1).double().sum(1)
        return (given_z + prior.log_prob(flat)).view(z.shape[:2])

    return log_joint


def importance_weights(
    log_joint: Callable[[Tensor], Tensor], q: Distribution, k: int, rng: KeyedRNG
) -> Weighed:
    """k weights for each image; at most `ROWS` codes are in memory.

    `log_joint` maps codes [S, B, L] to log p(x, z) [S, B]; q(z|x) has batch shape [B] and event
    shape [L]. A group of 10^p weights consists of ten groups of 10^(p-1). So if the
    number of weights is a multiple of 10^p, the bound for groups of 10^p is never lower than that
    for groups of 10^(p-1), on the same weights (Jensen's inequality).
    """
    mean, sigma = q.mean, q.stddev
    size = max(1, ROWS // len(mean))
    powers = [10**power for power in range(len(str(k - 1)))] if k > 1 else []
    log_sum = torch.full((len(mean),), -math.inf, dtype=torch.float64, device=mean.device)
    log_squares = log_sum.clone()
    unfinished = [log_sum.new_empty(0, len(mean)) for _ in powers]  # groups until there are ten
    found = [log_sum.new_zeros(len(mean)) for _ in powers]
    for start in range(0, k, size):
        count = min(size, k - start)
        noise = rng.normal(f"codes/{start}", count * len(mean), mean.shape[1])
        z = mean + sigma * noise.view(count, *mean.shape).to(mean.dtype)
        groups = log_joint(z) - q.log_prob(z).double()  # [count, B]
        log_sum = torch.logaddexp(log_sum, groups.logsumexp(0))
        log_squares = torch.logaddexp(log_squares, (2 * groups).logsumexp(0))
        for level, of in enumerate(powers):
            found[level] += (groups - math.log(of)).sum(0) / (k // of)
            groups = torch.cat([unfinished[level], groups])
            tens = len(groups) // 10
            unfinished[level] = groups[10 * tens :]
            groups = groups[: 10 * tens].view(tens, 10, len(mean)).logsumexp(1)
    bounds = dict(zip(powers, found, strict=True)) | {k: log_sum - math.log(k)}
    return Weighed(bounds, (2 * log_sum - log_squares).exp())


def ais(frozen: Frozen, steps: int, chains: int, images: int) -> dict[str, Any]:
    """Annealed importance sampling from q(z|x) to p(x, z) (Neal 2001; Wu et al. 2017), for images
    spread over the test split.

    The report gives an upper bound on -log p(x): the estimate of p(x) has no bias, so its logarithm
    is too low in expectation (Jensen).
    """
    method = _model(frozen)
    parts = [
        anneal(joint_of(method, x), q, steps, chains, _rng(frozen, number).fork("ais"))
        for number, (x, q, _) in enumerate(_coded_images(frozen, images))
    ]
    elbo, found = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("elbo", "log_evidence")
    )
    numbers, values = _described(frozen, len(elbo))
    annealed = f"annealed, {steps} steps, {chains} chains"
    return numbers | {
        "steps": steps,
        "chains": chains,
        "schedule": f"sigmoid from {-SHARPNESS:g} to {SHARPNESS:g}, from q(z|x) to p(x, z)",
        "transition": f"Hamiltonian, {LEAPS} leapfrog steps, step sizes tuned on separate chains",
        "accepted": sum(part.accepted * len(part.elbo) for part in parts) / len(elbo),
        "nelbo": entry(interval(-elbo), f"-ELBO, {chains} codes an image", SIDE, values),
        "annealed": entry(interval(-found), annealed, f"stochastic {SIDE}", values),
        "gain": bounds(interval(found - elbo)),
    }


def _described(frozen: Frozen, images: int) -> tuple[Numbers, int | None]:
    """What is measured, and the number of values of an image if they are discrete."""
    values = math.prod(frozen.source("test").shape)
    numbers: Numbers = {"quantity": "-log p(x)", "split": "test", "unit": "nats an image"}
    numbers |= {"images": images, "image_values": values}
    return numbers, values if _model(frozen).discrete() else None


def _model(frozen: Frozen) -> LatentModel:
    assert isinstance(frozen.method, LatentModel)
    return frozen.method


def _coded_images(frozen: Frozen, images: int) -> Iterator[Coded]:
    """Plain test images, evenly spread, with their posteriors."""
    source = frozen.source("test")
    sampler = eval_sampler(len(source), frozen.seed, BLOCK, frozen.device, "likelihood", images)
    return (coded(_model(frozen), batch) for batch in frozen.watched("likelihood", source, sampler))


def _rng(frozen: Frozen, number: int) -> KeyedRNG:
    return KeyedRNG(frozen.seed, number, device=frozen.device)


SCHEMA = """
        "quantity", "split", "unit", "images", "image_values", "nelbo": as in "rate",
        "gain": {"value", "low", "high"} (nats tighter than the ELBO), """


class BoundProbe(Probe):
    """A bound on -log p(x) that is tighter than the ELBO."""

    on_request = True
    bound: ClassVar[str]  # its key among the numbers

    def requires(self, frozen: Frozen) -> str:
        return posterior(frozen)

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {f"{self.name}/{key}": numbers[key]["value"] for key in ("nelbo", self.bound)}


class LikelihoodProbe(BoundProbe):
    """The importance-weighted bound on -log p(x)."""

    name = "likelihood"
    summary = "-log p(x) by k importance weights an image, with its interval (VAEs)"
    bound = "importance_weighted"
    options = {"k": 5000, "images": 1000}
    schema = (
        SCHEMA
        + """"k", "effective_samples",
        "importance_weighted": as in "rate", "sweep": [{"k", "value", "low", "high"}]"""
    )

    def measure(self, frozen: Frozen, **options: int) -> Found:
        return Found(likelihood(frozen, options["k"], options["images"]))

    def sentences(self, numbers: Numbers) -> list[str]:
        how = f"{numbers['effective_samples']:.1f} effective samples"
        return [_sentence(numbers, numbers["importance_weighted"], how)]


class AISProbe(BoundProbe):
    """The bound on -log p(x) by annealed importance sampling."""

    name = "ais"
    summary = "-log p(x) by annealed importance sampling, with its interval (VAEs)"
    bound = "annealed"
    options = {"steps": 200, "chains": 8, "images": 100}
    schema = (
        SCHEMA
        + """"steps", "chains", "schedule",
        "transition", "accepted" (share), "annealed": as in "rate\""""
    )

    def measure(self, frozen: Frozen, **options: int) -> Found:
        return Found(ais(frozen, options["steps"], options["chains"], options["images"]))

    def sentences(self, numbers: Numbers) -> list[str]:
        how = f"{100 * numbers['accepted']:.0f} % of transitions accepted"
        return [_sentence(numbers, numbers["annealed"], how)]


def _sentence(numbers: Numbers, bound: Numbers, how: str) -> str:
    """The ELBO, which bounds a code's length; then the tighter bound and its estimator."""
    return (
        f"−log p(x) ≤ {numbers['nelbo']['value']:,.2f} by the ELBO, ≤ {bound['value']:,.2f}"
        f" [{bound['low']:,.2f}, {bound['high']:,.2f}] nats{bits(bound, 4)},"
        f" {bound['estimator']}, {numbers['images']:,} images;"
        f" {numbers['gain']['value']:.2f} nats tighter than the ELBO, {how}"
    )
