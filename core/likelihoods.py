"""The two sides of an ELBO: what a decoder says of pixels, p(x|z), and what a Gaussian code costs, KL(q(z|x) || p(z)).

Every constant is kept, so that the distortion is a cross-entropy in nats. A decoder emits parameters [B, C, H, W], one number a value; a
likelihood turns them into a distribution over images [B, C, H, W]. Binary cross-entropy on grey pixels is no likelihood and is not offered.
"""

from core.batch import as_float

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Normal

LEVELS = 256


class DiscretisedLogistic(Distribution):
    """A logistic density integrated over the bins of 8-bit values (Kingma et al. 2016; Salimans et al. 2017).

        P(k) = sigmoid((x_k + h - mu) / s) - sigmoid((x_k - h - mu) / s),   x_k = 2 k / 255 - 1,   h = 1 / 255

    with everything below the lowest and above the highest bin counted to them, so that the 256 probabilities sum to one. Values are
    k / 255 in [0, 1]; log_prob is in nats a value.
    """

    arg_constraints: dict[str, object] = {}  # type: ignore[assignment]

    def __init__(self, loc: Tensor, log_scale: Tensor):
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        super().__init__(self.loc.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        centred, inverse = value * 2 - 1 - self.loc, torch.exp(-self.log_scale)
        upper, lower = inverse * (centred + 1 / (LEVELS - 1)), inverse * (centred - 1 / (LEVELS - 1))
        # log(sigmoid(b) - sigmoid(a)) = logsig(b) + logsig(-a) + log(1 - e^(a - b)): exact in the far tails, where a difference is 0
        width = (2 / (LEVELS - 1)) * inverse
        inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-width))
        return torch.where(
            value < 0.5 / (LEVELS - 1), F.logsigmoid(upper), torch.where(value > 1 - 0.5 / (LEVELS - 1), F.logsigmoid(-lower), inside)
        )

    def icdf(self, value: Tensor) -> Tensor:
        """The value k / 255 whose bin holds the quantile of probabilities in [0, 1): the inverse of the cumulative probabilities."""
        logistic = self.loc + self.log_scale.exp() * torch.logit(value)
        return ((logistic + 1) / 2 * (LEVELS - 1)).round().clamp(0, LEVELS - 1) / (LEVELS - 1)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Values k / 255, from torch's global generator; `icdf` of uniform draws is the same with draws of one's own."""
        return self.icdf(torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device))

    @property
    def mean(self) -> Tensor:
        """sum_k P(k) k / 255 over the levels. Near the ends it is not the centre `loc`, for the tails are counted to the last bins."""
        edges = (2 * torch.arange(LEVELS - 1, dtype=self.loc.dtype) + 1) / (LEVELS - 1) - 1
        inverse = torch.exp(-self.log_scale)
        # E K = sum_j P(K > j), one level at a time, so that no [256, B, C, H, W] is held
        return sum((torch.sigmoid((self.loc - edge) * inverse) for edge in edges.tolist()), torch.zeros_like(self.loc)) / (LEVELS - 1)


class DequantisedGaussian(Normal):
    """A Gaussian density of 8-bit values on [0, 256), in nats a value: log N(x; mu, sigma) - log 256 for x = (k + u) / 256.

    With uniform noise u its mean log density is a lower bound on the log probability of the 8-bit value, comparable with a discretised
    likelihood (Theis et al. 2016). The (1/2) log 2 pi sigma^2 is kept.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) - math.log(LEVELS)


class Likelihood(nn.Module):
    """Decoder parameters to a distribution, and an image to the value that it scores. One of "bernoulli", "logistic", "gaussian".

    The scale of the last two is one trained number a channel, kept away from zero.
    """

    NAMES = ("bernoulli", "logistic", "gaussian")

    def __init__(self, name: str, channels: int):
        super().__init__()
        self.name = name
        if name != "bernoulli":
            self.log_scale = nn.Parameter(torch.full((channels, 1, 1), -3.5))

    def forward(self, parameters: Tensor) -> Distribution:
        """p(x|z) for parameters [B, C, H, W]; log_prob is [B, C, H, W] in nats."""
        if self.name == "bernoulli":
            return Bernoulli(logits=parameters, validate_args=False)
        log_scale = self.log_scale.clamp(min=-7.0)
        if self.name == "logistic":
            return DiscretisedLogistic(torch.tanh(parameters), log_scale)
        return DequantisedGaussian(torch.sigmoid(parameters), log_scale.exp(), validate_args=False)

    def target(self, x: Tensor, noise: Tensor) -> Tensor:
        """The value that the likelihood scores: x binarised by comparison with uniform `noise` (dynamic binarisation), x itself, or x with
        `noise` inside its 8-bit bin."""
        x = as_float(x)
        if self.name == "bernoulli":
            return (noise < x).to(x.dtype)
        return x if self.name == "logistic" else (x * (LEVELS - 1) + noise) / LEVELS


def kl_from_standard_normal(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(N(mean, sigma^2) || N(0, 1)) = sum (mean^2 + sigma^2 - 1) / 2 - log sigma, for [B, L], in nats an image [B].

    Its mean over images is a rate, an upper bound on I(X; Z).
    """
    return (0.5 * (mean**2 + torch.exp(2 * log_sigma) - 1) - log_sigma).sum(1)
