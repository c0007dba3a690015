"""Rate and distortion of a VAE on held-out images, and I(X; Z) between its two tractable bounds.

n = images of the test split, L = latent dimensions, d = values of an image.
"""

from core.bounds import Estimate, interval, sandwich
from core.config import RunConfig
from core.data import open_source
from core.method import LatentModel
from core.scores import gaussian
from core.source import reading_order

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

CANDIDATES = 16_384  # images between which the sandwich compares every pair, evenly spread over the split; R and D are of all images


@torch.no_grad()
def rate(method: LatentModel, run: RunConfig, seed: int = 0, device: torch.device | str = "cpu") -> dict[str, Any]:
    """R, D and D + R in nats an image and bits a dimension, each with its interval, one posterior sample an image.

    R = E KL(q(z|x) || p(z)) = I_q(X; Z) + KL(q(z) || p(z)),   D = E -log p(x|z),   D + R >= -E log p(x)
    lower <= I_q(X; Z) <= min(upper, R)   (Hoffman & Johnson 2016; Poole et al. 2019)
    """
    source = open_source(run.data, "test", run.seed, augmented=False)
    prior = method.prior()
    rates: list[Tensor] = []
    distortions: list[Tensor] = []
    means: list[Tensor] = []
    sigmas: list[Tensor] = []
    samples: list[Tensor] = []
    for batch in source.batches(reading_order(len(source), seed, device=device, purpose="rate"), 1):
        image = batch.views[0]
        x = method.target(image, batch.draws.uniform("dequantise", *image.shape))
        q = method.posterior(x)
        mean, sigma = q.mean, q.variance.sqrt()
        z = mean + sigma * batch.draws.normal("posterior", *mean.shape)
        rates.append(_kl(q, prior, z))
        distortions.append(-method.likelihood(z).log_prob(x).flatten(1).sum(1))
        for part, value in ((means, mean), (sigmas, sigma), (samples, z)):
            part.append(value)
    r, d, mu = torch.cat(rates), torch.cat(distortions), torch.cat(means)
    chosen = torch.arange(min(CANDIDATES, len(mu)), device=mu.device) * len(mu) // min(CANDIDATES, len(mu))
    candidates = (part[chosen] for part in (mu, torch.cat(sigmas), torch.cat(samples)))
    lower, upper = (interval(*bound) for bound in sandwich(gaussian(*candidates)))
    values = math.prod(source.shape)
    estimate = interval(r)
    closed, sampled = "closed-form KL(q(z|x) || p(z))", "log q(z|x) - log p(z), one z an image"
    return {
        "quantity": "I(X; Z), between an image and its code",
        "split": "test",
        "unit": "nats an image",
        "images": len(source),
        "dimensions": values,
        "rate": _entry(estimate, closed if isinstance(prior, Independent) else sampled, "upper bound on I(X; Z)", values),
        "distortion": _entry(interval(d), "-log p(x|z), one z an image", "cross-entropy", values),
        "nelbo": _entry(interval(r + d), "D + R at beta 1", "upper bound on -log p(x)", values),
        "lower": _entry(lower, f"tractable q(z|x), {len(chosen)} candidates", "lower bound on I(X; Z)", values),
        "upper": _entry(upper, f"tractable q(z|x), leave-one-out, {len(chosen)} candidates", "upper bound on I(X; Z)", values),
        "ceiling": math.log(len(chosen)),
        "marginal_kl": {"quantity": "KL(q(z) || p(z))", "low": max(0.0, estimate.mean - upper.mean), "high": estimate.mean - lower.mean},
        "active_units": int((mu.var(0) > 0.01).sum()),  # Burda et al. 2016
        "latent_dimensions": mu.shape[1],
    }


def _kl(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """KL(q || p) [B] in closed form between diagonal Gaussians, else (a mixture, a flow) log q(z) - log p(z) at the sample."""
    return kl_divergence(q, p) if isinstance(p, Independent) else q.log_prob(z) - p.log_prob(z)


def _entry(estimate: Estimate, estimator: str, side: str, values: int) -> dict[str, Any]:
    return {
        "value": estimate.mean,
        "low": estimate.low,
        "high": estimate.high,
        "bits_per_dim": estimate.mean / values / math.log(2),
        "estimator": estimator,
        "side": side,
    }
