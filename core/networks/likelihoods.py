"""The two sides of an ELBO: what a decoder says of pixels, p(x|z), and what a Gaussian code costs,
KL(q(z|x) || p(z)).

Every constant is kept, so that the distortion is a cross-entropy in nats. Binary cross-entropy on
grey pixels is no likelihood and is not offered. B = images, C H W = image shape, P = numbers that a
decoder emits for each value of an image.
"""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Normal

from core.batch import as_float
from core.errors import UserError
from core.networks.discretized import LEVELS, Categorical256, DiscretizedLogistic, LogisticMixture


class DequantisedGaussian(Normal):
    """A Gaussian density of 8-bit values on [0, 256), in nats a value: log N(x; mu, sigma) - log
    256 for x = (k + u) / 256.

    With uniform noise u its mean log density is a lower bound on the log probability of the 8-bit
    value, comparable with a discretised likelihood (Theis et al. 2016). The (1/2) log 2 pi sigma^2
    is kept.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) - math.log(LEVELS)


class Likelihood(nn.Module):
    """Decoder parameters [B, C P, H, W] to a distribution over images [B, C, H, W], and an image to
    the value that it scores.

        bernoulli         binary pixels, P = 1
        categorical       8-bit values, 256 logits, P = 256
        logistic          8-bit values, discretised logistic, P = 1
        logistic_mixture  8-bit values, P = 3 x `components`
        gaussian          8-bit values with uniform noise, P = 1
        normal            real values, N(x; parameters, sigma^2), P = 1

    The scale of logistic, gaussian and normal is one trained number a channel, kept away from zero;
    normal's may be fixed by `sigma`.
    """

    NAMES = ("bernoulli", "categorical", "logistic", "logistic_mixture", "gaussian", "normal")
    LEAST = -7.0  # log scale

    def __init__(self, name: str, channels: int, sigma: float | None = None, components: int = 10):
        super().__init__()
        self.name, self.image_channels = name, channels
        self.channels = {"categorical": LEVELS, "logistic_mixture": 3 * components}.get(
            name, 1
        )  # P
        if name in ("logistic", "gaussian", "normal"):
            start = math.log(sigma) if sigma is not None else 0.0 if name == "normal" else -3.5
            self.log_scale = nn.Parameter(
                torch.full((channels, 1, 1), start), requires_grad=sigma is None
            )

    def forward(self, parameters: Tensor) -> Distribution:
        """p(x|z) for parameters [B, C P, H, W]; log_prob is [B, C, H, W] in nats."""
        if self.name == "bernoulli":
            return Bernoulli(logits=parameters, validate_args=False)
        if self.channels > 1:
            parameters = parameters.unflatten(1, (self.image_channels, self.channels)).movedim(
                2, -1
            )
        if self.name == "categorical":
            return Categorical256(parameters)
        if self.name == "logistic_mixture":
            logits, loc, log_scale = parameters.chunk(3, -1)
            spread = torch.linspace(
                -1, 1, loc.shape[-1], device=loc.device
            )  # components start side by side, not upon each other
            return LogisticMixture(logits, loc + spread, (log_scale - 2).clamp(min=self.LEAST))
        if self.name == "normal":
            return Normal(parameters, self.log_scale.exp(), validate_args=False)
        log_scale = self.log_scale.clamp(min=self.LEAST)
        if self.name == "logistic":
            return DiscretizedLogistic(torch.tanh(parameters), log_scale)
        return DequantisedGaussian(torch.sigmoid(parameters), log_scale.exp(), validate_args=False)

    def target(self, x: Tensor, noise: Tensor) -> Tensor:
        """The value that the likelihood scores: x binarised by comparison with uniform `noise`
        (dynamic binarisation), x at the nearest 8-bit level, x with `noise` inside its level, or x
        itself. Raises `UserError` where x lies outside what the likelihood knows.
        """
        if self.name == "normal":
            return as_float(x)
        if x.is_floating_point():
            low, high = (edge.item() for edge in x.aminmax())
            if not 0 <= low <= high <= 1:
                raise UserError(
                    f"model.likelihood: {self.name} knows pixels in [0, 1], and these run from"
                    f" {low:g} to {high:g};"
                    " scale them, or take model.likelihood=normal for real values"
                )
        x = as_float(x)
        if self.name == "bernoulli":
            return (noise < x).to(x.dtype)
        level = (x * (LEVELS - 1)).round()
        return (level + noise) / LEVELS if self.name == "gaussian" else level / (LEVELS - 1)


def kl_from_standard_normal(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(N(mean, sigma^2) || N(0, 1)) = (mean^2 + sigma^2 - 1) / 2 - log sigma of each dimension,
    [B, L], in nats.

    Its sum over dimensions, averaged over images, is a rate, an upper bound on I(X; Z).
    """
    return 0.5 * (mean**2 + torch.exp(2 * log_sigma) - 1) - log_sigma
