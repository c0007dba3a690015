"""Distributions of 8-bit values: 256 probabilities that sum to one, so -log P is an exact code
length.

Values are k / 255 in [0, 1], k = 0 .. 255; log_prob is in nats per value. `from_uniform` takes the
caller's uniform numbers, and `sample` uses torch's global generator.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

LEVELS = 256
SMOOTH = 0.75  # the largest distance of levels, in scales, for which `_levels_below` is exact


class DiscreteDistribution(Distribution):
    """The base class: samples come from uniform numbers, and no support is validated."""

    arg_constraints: dict[str, object] = {}  # type: ignore[assignment]

    def __init__(self, like: Tensor):
        self.like = like  # has the shape, dtype and device of a value
        super().__init__(like.shape, validate_args=False)

    def from_uniform(self, uniform: Tensor) -> Tensor:
        """Values k / 255, one from each number in [0, 1)."""
        raise NotImplementedError

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = torch.rand(shape, dtype=self.like.dtype, device=self.like.device)
        return self.from_uniform(uniform)


class DiscretizedLogistic(DiscreteDistribution):
    """A logistic density integrated over the bins of 8-bit values (Kingma et al. 2016; Salimans et
    al. 2017).

        P(k) = sigmoid((x_k + h - mu) / s) - sigmoid((x_k - h - mu) / s),
        x_k = 2 k / 255 - 1,   h = 1 / 255

    The lowest and the highest bin include the tails.
    """

    def __init__(self, loc: Tensor, log_scale: Tensor):
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        super().__init__(self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        centred, inverse = value * 2 - 1 - self.loc, torch.exp(-self.log_scale)
        upper = inverse * (centred + 1 / (LEVELS - 1))
        lower = inverse * (centred - 1 / (LEVELS - 1))
        # log(sigmoid(b) - sigmoid(a)) = logsig(b) + logsig(-a) + log(1 - e^(a - b)), exact in the
        # far tails, where the difference itself is 0
        width = (2 / (LEVELS - 1)) * inverse
        inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-width))
        inside = torch.where(value > 1 - 0.5 / (LEVELS - 1), F.logsigmoid(-lower), inside)
        return torch.where(value < 0.5 / (LEVELS - 1), F.logsigmoid(upper), inside)

    def from_uniform(self, uniform: Tensor) -> Tensor:
        """The value whose bin contains the quantile: the inverse of the cumulative distribution."""
        logistic = self.loc + self.log_scale.exp() * torch.logit(uniform)
        return ((logistic + 1) / 2 * (LEVELS - 1)).round().clamp(0, LEVELS - 1) / (LEVELS - 1)

    @property
    def mean(self) -> Tensor:
        """sum_k P(k) k / 255. Near 0 and 1 it differs from `loc`, because the bins there include
        the tails.
        """
        inverse = torch.exp(-self.log_scale)
        step = 2 / (LEVELS - 1) * inverse
        if (step <= SMOOTH).all():
            low, high = ((self.loc + side) * inverse for side in (1, -1))
            return (_levels_below(low, step) - _levels_below(high, step)) / (LEVELS - 1)
        edges = (2 * torch.arange(LEVELS - 1, dtype=self.loc.dtype) + 1) / (LEVELS - 1) - 1
        # E K = sum_j P(K > j), one level at a time, so that no [256, B, C, H, W] is needed
        above = (torch.sigmoid((self.loc - edge) * inverse) for edge in edges.tolist())
        return sum(above, torch.zeros_like(self.loc)) / (LEVELS - 1)


def _levels_below(a: Tensor, t: Tensor) -> Tensor:
    """sum_j sigmoid(a - (j + 1/2) t) for j = 0, 1, ..., by the formula of Euler and Maclaurin:

        softplus(a) / t - t s'(a) / 24 + 7 t^3 s'''(a) / 5760 - 31 t^5 s^(5)(a) / 967680

    with s = sigmoid. For t <= `SMOOTH`, E K / 255 is exact to 1e-9. This takes a tenth of the time
    of the sum.
    """
    s = torch.sigmoid(a)
    d = s * (1 - s)
    third, fifth = d * (1 - 6 * d), d * (1 - 30 * d + 120 * d**2)
    return F.softplus(a) / t - t * d / 24 + 7 * t**3 * third / 5760 - 31 * t**5 * fifth / 967680


class LogisticMixture(DiscreteDistribution):
    """P(k) = sum_j w_j P_j(k), a mixture of discretised logistics for each colour value (Salimans
    et al. 2017). logits, loc and log_scale are [..., J].

    PixelCNN++ shares the component among the colours of a pixel. It also shifts the distribution of
    green by the value of red, and that of blue by the values of red and green. Here values are
    independent given the parameters.
    """

    def __init__(self, logits: Tensor, loc: Tensor, log_scale: Tensor):
        self.log_weight, self.parts = F.log_softmax(logits, -1), DiscretizedLogistic(loc, log_scale)
        super().__init__(logits[..., 0])

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.logsumexp(self.log_weight + self.parts.log_prob(value[..., None]), -1)

    def from_uniform(self, uniform: Tensor) -> Tensor:
        """The number chooses a component. Its place within the share of this component, rescaled to
        [0, 1), chooses the value.
        """
        edges = cumulated(self.log_weight.exp()).expand(*uniform.shape, -1)
        chosen = (uniform[..., None] >= edges[..., :-1]).sum(-1, keepdim=True)
        low, high = (F.pad(edges, (1, 0)).gather(-1, chosen + side)[..., 0] for side in (0, 1))
        parts = (self.parts.loc, self.parts.log_scale)
        loc, log_scale = (x.expand_as(edges).gather(-1, chosen)[..., 0] for x in parts)
        tiny = torch.finfo(uniform.dtype).eps
        within = ((uniform - low) / (high - low).clamp(min=tiny)).clamp(tiny, 1 - tiny)
        return DiscretizedLogistic(loc, log_scale).from_uniform(within)

    @property
    def mean(self) -> Tensor:
        return (self.log_weight.exp() * self.parts.mean).sum(-1)


def cumulated(x: Tensor) -> Tensor:
    """Cumulative sums along the last dimension. On a GPU, torch's function adds in no fixed order,
    and raises an error under deterministic algorithms; then a matrix product replaces it.
    """
    if x.device.type != "cpu" and torch.are_deterministic_algorithms_enabled():
        return by_product(x)
    return x.cumsum(-1)


def by_product(x: Tensor) -> Tensor:
    """Cumulative sums as a product with a triangular matrix of ones."""
    return x @ x.new_ones(x.shape[-1], x.shape[-1]).triu()


class Categorical256(DiscreteDistribution):
    """P(k) = softmax(logits)_k with a logit for each of the 256 levels: logits [..., 256]."""

    def __init__(self, logits: Tensor):
        self.log_probability = F.log_softmax(logits, -1)
        super().__init__(logits[..., 0])

    def log_prob(self, value: Tensor) -> Tensor:
        level = (value * (LEVELS - 1)).round().long()[..., None]
        return self.log_probability.expand(*level.shape[:-1], -1).gather(-1, level)[..., 0]

    def from_uniform(self, uniform: Tensor) -> Tensor:
        """The level whose step of the cumulative distribution contains the number."""
        edges = cumulated(self.log_probability.exp())[..., :-1]
        return (uniform[..., None] >= edges).sum(-1).to(uniform.dtype) / (LEVELS - 1)

    @property
    def mean(self) -> Tensor:
        levels = torch.arange(LEVELS, dtype=self.like.dtype, device=self.like.device)
        return self.log_probability.exp() @ levels / (LEVELS - 1)
