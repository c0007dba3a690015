"""An image as a chain of conditionals, p(x | u) = prod_i p(x_i | earlier values in the window of i, u).

B = images, C H W = image shape, U = conditioning feature maps.
"""

from core.likelihoods import LEVELS, Likelihood

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae.pixelcnn import PixelCNN

DISCRETE = {"bernoulli": 2} | dict.fromkeys(("logistic", "categorical", "logistic_mixture"), LEVELS)  # likelihood -> values of a pixel


class AutoregressiveImage(Distribution):
    """The distribution of `count` images whose pixels are predicted by a PixelCNN, given feature maps [B, U, H, W] or unconditionally.

    Its log_prob reads the image that it scores (teacher forcing) and is [B, C, H, W], in nats a value, each the conditional's. It has no
    mean. The values of a pixel are discrete: 0 and 1, or k / 255.
    """

    arg_constraints: dict[str, object] = {}  # type: ignore[assignment]

    def __init__(self, network: PixelCNN, likelihood: Likelihood, features: Tensor | None = None, count: int = 1):
        self.network, self.likelihood = network, likelihood
        self.condition = None if features is None else network.condition(features)
        super().__init__(torch.Size([count if features is None else len(features), *network.shape]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.likelihood(self.network(value, self.condition).float()).log_prob(value)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Images from torch's global generator; `from_uniform` is the same with draws of one's own."""
        shape, place = self._extended_shape(torch.Size(sample_shape)), self.network.head.weight
        noise = torch.rand(shape, device=place.device).view(-1, *self.batch_shape)
        return torch.stack([self.from_uniform(part) for part in noise]).view(shape)

    @torch.no_grad()
    def from_uniform(self, noise: Tensor) -> Tensor:
        """The images [B, C, H, W] that uniform noise in [0, 1) of that shape stands for: value i is the first whose cumulative conditional
        probability exceeds noise i. One evaluation of a part of the network a value: a millisecond or two on a CPU, for some tens of images."""
        x = torch.zeros_like(noise)
        channels, height, width = self.network.shape
        for i in range(height):
            predict = self.network.reader(x, self.condition, i)
            for j in range(width):
                for c in range(channels):
                    x[:, c, i, j] = self._quantile(predict(j).float(), c, noise[:, c, i, j])
        return x

    def _quantile(self, parameters: Tensor, channel: int, probability: Tensor) -> Tensor:
        """The values [B] of one channel of one pixel, whose parameters are [B, C P], at cumulative probabilities [B]."""
        count = DISCRETE[self.likelihood.name]
        levels = torch.arange(count, device=parameters.device, dtype=parameters.dtype) / (count - 1)
        law = self.likelihood(parameters[:, :, None, None].expand(-1, -1, 1, count))
        cumulative = law.log_prob(levels.expand(len(parameters), self.network.shape[0], 1, count))[:, channel, 0].exp().cumsum(1)
        return levels[(cumulative <= probability[:, None]).sum(1).clamp(max=count - 1)]
