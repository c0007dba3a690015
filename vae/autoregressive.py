"""An image as a chain of conditionals: p(x | u) = prod_i p(x_i | earlier values in its window, u).

B = images, C H W = image shape, U = conditioning feature maps.
"""

import torch
from torch import Tensor
from torch.distributions import Distribution

from core.networks.discretized import DiscreteDistribution
from core.networks.likelihoods import Likelihood
from vae.pixelcnn import PixelCNN

# the likelihoods whose values can be drawn one by one
DISCRETE = ("bernoulli", "categorical", "logistic", "logistic_mixture")


class AutoregressiveImage(Distribution):
    """The distribution of `count` images whose pixels a PixelCNN predicts, given feature maps
    [B, U, H, W] or unconditionally.

    `log_prob` reads the image that it scores (teacher forcing). It is [B, C, H, W], the log of each
    conditional, in nats per value. Values are discrete: 0 and 1, or k / 255. There is no formula
    for the mean.
    """

    arg_constraints: dict[str, object] = {}  # type: ignore[assignment]

    def __init__(
        self,
        network: PixelCNN,
        likelihood: Likelihood,
        features: Tensor | None = None,
        count: int = 1,
    ):
        self.network, self.likelihood = network, likelihood
        self.condition = None if features is None else network.condition(features)
        shape = [count if features is None else len(features), *network.shape]
        super().__init__(torch.Size(shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.likelihood(self.network(value, self.condition).float()).log_prob(value)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Images from torch's global generator; `from_uniform` takes the caller's numbers."""
        shape, place = self._extended_shape(torch.Size(sample_shape)), self.network.head.weight
        uniform = torch.rand(shape, device=place.device).view(-1, *self.batch_shape)
        return torch.stack([self.from_uniform(part) for part in uniform]).view(shape)

    @torch.no_grad()
    def from_uniform(self, uniform: Tensor) -> Tensor:
        """Images from uniform numbers in [0, 1), [B, C, H, W], drawn value by value.

        Each value needs one evaluation of a part of the network, which takes one or two
        milliseconds for some tens of images on a CPU.
        """
        x = torch.zeros_like(uniform)
        channels, height, width = self.network.shape
        for i in range(height):
            predict = self.network.reader(x, self.condition, i)
            for j in range(width):
                for c in range(channels):
                    conditional = self.likelihood(predict(j).float()[:, :, None, None])
                    numbers = uniform[:, :, i, j, None, None]
                    if isinstance(conditional, DiscreteDistribution):
                        values = conditional.from_uniform(numbers)
                    else:  # Bernoulli
                        values = (numbers < conditional.mean).float()
                    x[:, c, i, j] = values[:, c, 0, 0]
        return x
