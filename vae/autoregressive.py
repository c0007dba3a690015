"""An image as a chain of conditionals, p(x | u) = prod_i p(x_i | earlier values in the window of i,
u).

B = images, C H W = image shape, U = conditioning feature maps.
"""

import torch
from torch import Tensor
from torch.distributions import Distribution

from core.networks.discretized import DiscreteDistribution
from core.networks.likelihoods import Likelihood
from vae.pixelcnn import PixelCNN

DISCRETE = (
    "bernoulli",
    "categorical",
    "logistic",
    "logistic_mixture",
)  # the likelihoods whose values can be drawn one by one


class AutoregressiveImage(Distribution):
    """The distribution of `count` images whose pixels are predicted by a PixelCNN, given feature
    maps [B, U, H, W] or unconditionally.

    Its log_prob reads the image that it scores (teacher forcing) and is [B, C, H, W], in nats a
    value, each the conditional's. It has no mean. The values of a pixel are discrete: 0 and 1, or k
    / 255.
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
        super().__init__(
            torch.Size([count if features is None else len(features), *network.shape]),
            validate_args=False,
        )

    def log_prob(self, value: Tensor) -> Tensor:
        return self.likelihood(self.network(value, self.condition).float()).log_prob(value)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Images from torch's global generator; `from_uniform` is the same with draws of one's
        own.
        """
        shape, place = self._extended_shape(torch.Size(sample_shape)), self.network.head.weight
        uniform = torch.rand(shape, device=place.device).view(-1, *self.batch_shape)
        return torch.stack([self.from_uniform(part) for part in uniform]).view(shape)

    @torch.no_grad()
    def from_uniform(self, uniform: Tensor) -> Tensor:
        """Images from uniform numbers in [0, 1), [B, C, H, W]: each value from its number and its
        conditional, in order.

        One evaluation of a part of the network a value: on a CPU a millisecond or two, for some
        tens of images.
        """
        x = torch.zeros_like(uniform)
        channels, height, width = self.network.shape
        for i in range(height):
            predict = self.network.reader(x, self.condition, i)
            for j in range(width):
                for c in range(channels):
                    law = self.likelihood(predict(j).float()[:, :, None, None])
                    numbers = uniform[:, :, i, j, None, None]
                    values = (
                        law.from_uniform(numbers)
                        if isinstance(law, DiscreteDistribution)
                        else (numbers < law.mean).float()
                    )  # else Bernoulli
                    x[:, c, i, j] = values[:, c, 0, 0]
        return x
