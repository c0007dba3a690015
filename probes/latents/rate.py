"""Rate and distortion of a VAE on held-out images, I(X; Z) between its two tractable bounds, and
where the rate goes.

n = images of the test split, L = latent dimensions, d = values of an image.
"""

from core.data.datasets import open_source
from core.data.source import eval_sampler
from core.information.bounds import interval, sandwich
from core.information.scores import gaussian
from core.method import LatentModel
from core.run.config import RunConfig

import math
from typing import Any

import torch

from probes.latents.codes import coded, codes, joined
from probes.latents.collapse import (
    active_units,
    at_most,
    collapse_status,
    decomposition,
    dimension_rates,
)
from probes.report.schema import entry

CANDIDATES = 16_384  # images of which the sandwich compares every pair; R and D are of all


@torch.no_grad()
def rate(
    method: LatentModel, run: RunConfig, seed: int = 0, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """R, D and D + R in nats an image and bits a dimension, each with its interval, one posterior
    sample an image.

    R = E KL(q(z|x) || p(z)) = I_q(X; Z) + KL(q(z) || p(z)),   D = E -log p(x|z),   D + R >= -E log
    p(x) lower <= I_q(X; Z) <= min(upper, R)   (Hoffman & Johnson 2016; Poole et al. 2019)
    """
    source = open_source(run.data, "test", run.seed, augmented=False)
    prior, batches, distortions = method.prior(), [], []
    for batch in coded(
        method, source, eval_sampler(len(source), seed, device=device, purpose="rate")
    ):
        batches.append(codes(batch, prior))
        distortions.append(-method.likelihood(batch.z).log_prob(batch.x).flatten(1).sum(1))
    read, d = joined(batches), torch.cat(distortions)
    r, among = read.rate, at_most(read, CANDIDATES)
    pairs = gaussian(among.mean, among.sigma, among.z)
    lower, upper = (interval(*bound) for bound in sandwich(pairs))
    parts, values = (
        decomposition(read, prior, pairs),
        math.prod(source.shape) if method.discrete() else None,
    )
    estimate = interval(r)
    estimator = (
        "closed-form KL(q(z|x) || p(z))" if read.closed else "log q(z|x) - log p(z), one z an image"
    )
    found = {
        "quantity": "I(X; Z), between an image and its code",
        "split": "test",
        "unit": "nats an image",
        "images": len(r),
        "dimensions": math.prod(source.shape),
        "rate": entry(estimate, estimator, "upper bound on I(X; Z)", values),
        "distortion": entry(interval(d), "-log p(x|z), one z an image", "cross-entropy", values),
        "nelbo": entry(interval(r + d), "D + R at beta 1", "upper bound on -log p(x)", values),
        "lower": entry(
            lower, f"tractable q(z|x), {len(among.z)} candidates", "lower bound on I(X; Z)", values
        ),
        "upper": entry(
            upper,
            f"tractable q(z|x), leave-one-out, {len(among.z)} candidates",
            "upper bound on I(X; Z)",
            values,
        ),
        "ceiling": math.log(len(among.z)),
        "marginal_kl": {
            "quantity": "KL(q(z) || p(z))",
            "low": max(
                0.0, estimate.mean - upper.mean, parts.get("dimension_wise_kl", {}).get("low", 0.0)
            ),
            "high": max(0.0, estimate.mean - lower.mean),
        },
        "active_units": active_units(read.mean),
        "latent_dimensions": read.mean.shape[1],
    }
    if sentence := collapse_status(read, upper.mean).sentence:
        found["sentence"] = sentence
    if of_dimensions := dimension_rates(read, prior):
        found["dimension_rates"] = of_dimensions
    return found | parts
