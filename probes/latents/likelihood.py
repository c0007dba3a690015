"""How likely test images are under a VAE: bounds on log p(x) that are tighter than the ELBO, from
importance weights and from annealing.

A bits-back file is bounded by the ELBO and by none of these, so every report gives the ELBO first.
All in nats an image. n = images, B = images of a batch, S = samples (or chains) of each, L = latent
dimensions.
"""

from core.data.datasets import open_source
from core.data.source import eval_sampler
from core.information.bounds import interval
from core.method import LatentModel
from core.randomness import KeyedRNG
from core.run.config import RunConfig

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from probes.latents.annealing import LEAPS, SHARPNESS, anneal
from probes.latents.codes import coded
from probes.report.schema import bounds, entry

ROWS = 1024  # codes that are decoded at a time
BLOCK = 64  # images at a time, so that both bounds read the same draws of an image
SIDE = "upper bound on -log p(x), in expectation"


class Weighed(NamedTuple):
    """Bounds on log p(x) of B images from S importance weights w = p(x, z) / q(z|x) of each."""

    bounds: dict[
        int, Tensor
        # k = 1, 10, 100 ... S -> [B], the mean of log (1/k) sum w over groups of k; k = 1 is the
        # ELBO
    ]
    effective: Tensor  # [B], (sum w)^2 / sum w^2, from 1 to S


@torch.no_grad()
def likelihood(
    method: LatentModel,
    run: RunConfig,
    k: int,
    images: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """The importance-weighted bound on log p(x) with k samples (Burda et al. 2016), of images
    spread over the test split.

        log p(x) >= E log (1/k) sum_s p(x, z_s) / q(z_s|x),   z_s ~ q(z|x),

    which is the ELBO at k = 1, never falls with k and tends to log p(x). Reported as upper bounds
    on -log p(x).
    """
    source = open_source(run.data, "test", run.seed, augmented=False)
    order = eval_sampler(len(source), seed, BLOCK, device, "likelihood", images)
    parts = [
        importance_weights(
            joint_of(method, x), q, k, KeyedRNG(seed, number, device=device).fork("likelihood")
        )
        for number, (x, q, _) in enumerate(coded(method, source, order))
    ]
    values = math.prod(source.shape) if method.discrete() else None
    read = {count: torch.cat([part.bounds[count] for part in parts]) for count in parts[0].bounds}
    return {
        "quantity": "-log p(x)",
        "split": "test",
        "unit": "nats an image",
        "images": len(read[k]),
        "dimensions": math.prod(source.shape),
        "k": k,
        "nelbo": entry(interval(-read[1]), f"-ELBO, {k} codes an image", SIDE, values),
        "importance_weighted": entry(
            interval(-read[k]), f"importance-weighted, k = {k}", SIDE, values
        ),
        "gain": bounds(interval(read[k] - read[1])),
        "sweep": [{"k": count} | bounds(interval(-terms)) for count, terms in read.items()],
        "effective_samples": torch.cat([part.effective for part in parts]).mean().item(),
    }


def joint_of(method: LatentModel, x: Tensor) -> Callable[[Tensor], Tensor]:
    """log p(x, z) of codes z [S, B, L] for images x [B, C, H, W]: float64 [S, B], in nats."""
    prior = method.prior()

    def log_joint(z: Tensor) -> Tensor:
        flat = z.flatten(0, 1)
        images = x.expand(len(z), *x.shape).flatten(0, 1)
        found = method.likelihood(flat).log_prob(images).flatten(1).double().sum(
            1
        ) + prior.log_prob(flat)
        return found.view(z.shape[:2])

    return log_joint


def importance_weights(
    log_joint: Callable[[Tensor], Tensor], q: Distribution, k: int, rng: KeyedRNG
) -> Weighed:
    """k weights an image, summed as they come: no more than `ROWS` codes are held.

    `log_joint` takes codes [S, B, L] to log p(x, z) [S, B]; q(z|x) has batch shape [B] and event
    shape [L]. A group of 10^p weights is ten groups of 10^(p-1), so that on one sample the bounds
    of ten times the k are never lower (Jensen's inequality).
    """
    mean, sigma = q.mean, q.stddev
    size, powers = (
        max(1, ROWS // len(mean)),
        [10**power for power in range(len(str(k - 1)))] if k > 1 else [],
    )
    log_sum, log_squares = (
        torch.full((len(mean),), -math.inf, dtype=torch.float64, device=mean.device)
        for _ in range(2)
    )
    unfinished = [
        log_sum.new_empty(0, len(mean)) for _ in powers
    ]  # log sums of groups that wait until they are ten
    found = [log_sum.new_zeros(len(mean)) for _ in powers]
    for start in range(0, k, size):
        count = min(size, k - start)
        noise = rng.normal(f"codes/{start}", count * len(mean), mean.shape[1]).view(
            count, *mean.shape
        )
        z = mean + sigma * noise.to(mean.dtype)
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


def ais(
    method: LatentModel,
    run: RunConfig,
    steps: int,
    chains: int,
    images: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Annealed importance sampling from q(z|x) to p(x, z) (Neal 2001; Wu et al. 2017), of images
    spread over the test split.

    Reported as an upper bound on -log p(x): the estimate of p(x) has no bias, so that of log p(x)
    is low in expectation (Jensen).
    """
    source = open_source(run.data, "test", run.seed, augmented=False)
    order = eval_sampler(len(source), seed, BLOCK, device, "likelihood", images)
    parts = [
        anneal(
            joint_of(method, x), q, steps, chains, KeyedRNG(seed, number, device=device).fork("ais")
        )
        for number, (x, q, _) in enumerate(coded(method, source, order))
    ]
    elbo, found = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("elbo", "log_evidence")
    )
    values = math.prod(source.shape) if method.discrete() else None
    return {
        "quantity": "-log p(x)",
        "split": "test",
        "unit": "nats an image",
        "images": len(elbo),
        "dimensions": math.prod(source.shape),
        "steps": steps,
        "chains": chains,
        "schedule": f"sigmoid from {-SHARPNESS:g} to {SHARPNESS:g}, from q(z|x) to p(x, z)",
        "transition": f"Hamiltonian, {LEAPS} leapfrog steps, step sizes tuned on chains of their"
        " own",
        "accepted": sum(part.accepted * len(part.elbo) for part in parts) / len(elbo),
        "nelbo": entry(interval(-elbo), f"-ELBO, {chains} codes an image", SIDE, values),
        "annealed": entry(
            interval(-found),
            f"annealed, {steps} steps, {chains} chains",
            f"stochastic {SIDE}",
            values,
        ),
        "gain": bounds(interval(found - elbo)),
    }
