"""Likelihoods p(x|z) of pixels, and the rate KL(q(z|x) || p(z)) of a Gaussian code.

All constants are kept, so the distortion is a cross-entropy in nats. Binary cross-entropy of grey
pixels is not a likelihood, so it is not offered. B = images, C H W = image shape, P = numbers that
a decoder computes for each value of an image.
"""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Normal

from core.batch import as_float
from core.errors import UserError
from core.networks.discretized import LEVELS, Categorical256, DiscretizedLogistic, LogisticMixture


class DequantisedGaussian(Normal):
    """A Gaussian density of 8-bit values on [0, 256), in nats per value: log N(x; mu, sigma) - log
    256 for x = (k + u) / 256.

    The noise u is uniform in [0, 1). The mean log density over u is a lower bound on the log
    probability of the 8-bit value. So this mean can be compared with discretised likelihoods (Theis
    et al. 2016).
    """

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) - math.log(LEVELS)


class Likelihood(nn.Module):
    """Decoder parameters [B, C P, H, W] to a distribution over images [B, C, H, W]. `target` makes
    the values that the distribution scores.

        bernoulli         binary pixels, P = 1
        categorical       8-bit values, 256 logits, P = 256
        logistic          8-bit values, discretised logistic, P = 1
        logistic_mixture  8-bit values, P = 3 x `components`
        gaussian          8-bit values with uniform noise, P = 1
        normal            real values, N(x; parameters, sigma^2), P = 1

    logistic, gaussian and normal have one trained scale per channel; `sigma` fixes it. The scales
    of logistic, logistic_mixture and gaussian are bounded away from zero, that of normal is not.
    """

    NAMES = ("bernoulli", "categorical", "logistic", "logistic_mixture", "gaussian", "normal")
    LEAST = -7.0  # lowest log scale

    def __init__(self, name: str, channels: int, sigma: float | None = None, components: int = 10):
        super().__init__()
        self.name, self.image_channels = name, channels
        counts = {"categorical": LEVELS, "logistic_mixture": 3 * components}
        self.channels = counts.get(name, 1)  # P
        if name in ("logistic", "gaussian", "normal"):
            start = math.log(sigma) if sigma is not None else 0.0 if name == "normal" else -3.5
            scale = torch.full((channels, 1, 1), start)
            self.log_scale = nn.Parameter(scale, requires_grad=sigma is None)

    def forward(self, parameters: Tensor) -> Distribution:
        """p(x|z) for parameters [B, C P, H, W]; log_prob is [B, C, H, W] in nats."""
        if self.name == "bernoulli":
            return Bernoulli(logits=parameters, validate_args=False)
        if self.channels > 1:
            parameters = parameters.unflatten(1, (self.image_channels, self.channels))
            parameters = parameters.movedim(2, -1)
        if self.name == "categorical":
            return Categorical256(parameters)
        if self.name == "logistic_mixture":
            logits, loc, log_scale = parameters.chunk(3, -1)
            # components start at different places
            spread = torch.linspace(-1, 1, loc.shape[-1], device=loc.device)
            return LogisticMixture(logits, loc + spread, (log_scale - 2).clamp(min=self.LEAST))
        if self.name == "normal":
            return Normal(parameters, self.log_scale.exp(), validate_args=False)
        log_scale = self.log_scale.clamp(min=self.LEAST)
        if self.name == "logistic":
            return DiscretizedLogistic(torch.tanh(parameters), log_scale)
        return DequantisedGaussian(torch.sigmoid(parameters), log_scale.exp(), validate_args=False)

    def target(self, x: Tensor, noise: Tensor) -> Tensor:
        """The values that the likelihood scores: x binarised with uniform `noise` (bernoulli), x
        with `noise` inside of its level (gaussian), x itself (normal), or x at the nearest 8-bit
        level (all others). Raises `UserError` for values outside of the likelihood's range.
        """
        if self.name == "normal":
            return as_float(x)
        if x.is_floating_point():
            low, high = (edge.item() for edge in x.aminmax())
            if not 0 <= low <= high <= 1:
                raise UserError(
                    f"model.likelihood: {self.name} needs pixels in [0, 1], but these go from"
                    f" {low:g} to {high:g}; scale them, or use model.likelihood=normal for real"
                    " values"
                )
        x = as_float(x)
        if self.name == "bernoulli":
            return (noise < x).to(x.dtype)
        level = (x * (LEVELS - 1)).round()
        return (level + noise) / LEVELS if self.name == "gaussian" else level / (LEVELS - 1)


def kl_from_standard_normal(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(N(mean, sigma^2) || N(0, 1)) = (mean^2 + sigma^2 - 1) / 2 - log sigma for each dimension,
    [B, L], in nats.

    Summed over dimensions and averaged over images, it is a rate, an upper bound on I(X; Z).
    """
    return 0.5 * (mean**2 + torch.exp(2 * log_sigma) - 1) - log_sigma
