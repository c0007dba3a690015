"""Priors p(z) of a code, and the rate of a diagonal Gaussian posterior under each.

B = images on this process, L = latent dimensions, K = pseudo-inputs, C H W = image shape.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal
from zuko.nn import MaskedMLP

from core.errors import UserError
from core.kind_options import Kinds, settings
from core.networks.likelihoods import kl_from_standard_normal

KINDS: Kinds = {"standard": {}, "vamp": {"pseudo_inputs": 500}, "flow": {"steps": 4, "width": 640}}


@dataclass
class PriorConfig:
    """The choice of the prior. Fields that the kind does not use stay null."""

    kind: str = "standard"  # the prior p(z): standard | vamp | flow
    pseudo_inputs: int | None = None  # vamp: number of pseudo-inputs (default 500)
    steps: int | None = None  # flow: number of steps (default 4)
    width: int | None = None  # flow: hidden units of a layer (default 640)

    def __post_init__(self) -> None:
        for key, value in self.settings().items():
            if value < 1:
                raise ValueError(f"prior.{key}: must be 1 or more, got {value}")

    def settings(self) -> dict[str, Any]:
        """The fields that the kind uses, with defaults."""
        return settings(self, KINDS, "prior")


class Prior(nn.Module, ABC):
    """p(z). A call returns the present distribution, with event [L]."""

    columns: int  # G, the number of terms of an image's rate

    @abstractmethod
    def forward(self) -> Distribution: ...

    @abstractmethod
    def rate(self, mean: Tensor, log_sigma: Tensor, z: Tensor) -> Tensor:
        """Terms [B, G] in nats; the expectation of their sum over G is KL(q(z|x) || p(z)).

        z ~ q(z|x) = N(mean, sigma^2); all [B, L].
        """


class StandardNormal(Prior):
    """p(z) = N(0, I). The rate is a closed form with one term per dimension."""

    zeros: Tensor

    def __init__(self, latent: int):
        super().__init__()
        self.columns = latent
        self.register_buffer("zeros", torch.zeros(latent), persistent=False)

    def forward(self) -> Distribution:
        normal = Normal(self.zeros, torch.ones_like(self.zeros), validate_args=False)
        return Independent(normal, 1, validate_args=False)

    def rate(self, mean: Tensor, log_sigma: Tensor, z: Tensor) -> Tensor:
        return kl_from_standard_normal(mean, log_sigma)


class VampPrior(Prior):
    """p(z) = (1/K) sum_k q(z|u_k), the posteriors of K trained pseudo-inputs (Tomczak & Welling
    2018).

    A mixture does not factorise, so the rate is log q(z|x) - log p(z) at the sample, in one term.
    `moments` maps images to the mean and log sigma of their posterior. With `bounded`,
    pseudo-inputs stay in [0, 1], like images.
    """

    columns = 1

    def __init__(
        self,
        pseudo_inputs: int,
        shape: tuple[int, int, int],
        moments: Callable[[Tensor], tuple[Tensor, Tensor]],
        bounded: bool,
    ):
        super().__init__()
        self.moments, self.bounded = moments, bounded
        self.pseudo_inputs = nn.Parameter(torch.randn(pseudo_inputs, *shape))

    def forward(self) -> Distribution:
        images = self.pseudo_inputs.sigmoid() if self.bounded else self.pseudo_inputs
        mean, log_sigma = self.moments(images)
        normal = Normal(mean, log_sigma.exp(), validate_args=False)
        parts = Independent(normal, 1, validate_args=False)
        weights = Categorical(logits=mean.new_zeros(len(mean)), validate_args=False)
        return MixtureSameFamily(weights, parts, validate_args=False)

    def rate(self, mean: Tensor, log_sigma: Tensor, z: Tensor) -> Tensor:
        posterior = Normal(mean, log_sigma.exp(), validate_args=False).log_prob(z).sum(1)
        return (posterior - self().log_prob(z))[:, None]


class AutoregressiveGaussian(Distribution):
    """p(z) = prod_i N(z_i; m_i(z_1 .. z_(i-1)), 1); `means` maps z [..., L] to m(z) [..., L]."""

    arg_constraints: dict[str, object] = {}  # type: ignore[assignment]
    has_rsample = False

    def __init__(self, means: Callable[[Tensor], Tensor], like: Tensor):
        self.means, self.like = means, like
        super().__init__(torch.Size(), like.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return Normal(self.means(value), 1.0, validate_args=False).log_prob(value).sum(-1)

    def transform(self, noise: Tensor) -> Tensor:
        """Standard normal numbers [..., L] to z, one dimension per pass of the network."""
        z = torch.zeros_like(noise)
        for i in range(noise.shape[-1]):
            z[..., i] = noise[..., i] + self.means(z)[..., i]
        return z

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Samples from torch's global generator; `transform` takes the caller's numbers."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.transform(torch.randn(shape, dtype=self.like.dtype, device=self.like.device))


class FlowPrior(Prior):
    """An autoregressive flow of steps e = y - mu(y) that change only means, where mu is a MADE of
    three masked layers (Germain et al. 2015; Chen et al. 2017). It starts as the standard normal.

    All steps have the same order 1 .. L. So log |det| = 0, and together the steps give
    p(z_i|z_<i) = N(m_i(z_<i), 1), which a codec can decode dimension by dimension. The rate has one
    term per dimension, a closed form given the earlier sampled dimensions:

        R_i = KL(N(mean_i, sigma_i^2) || N(m_i(z_<i), 1))

    This is the expectation of log q(z_i|x) - log p(z_i|z_<i) over z_i. It is never negative, and
    has less variance than that difference.
    """

    def __init__(self, latent: int, steps: int, width: int):
        super().__init__()
        if latent < 2:
            raise UserError(
                "model.prior.kind: flow needs a model.latent of 2 or more, because it"
                " predicts each dimension from earlier ones"
            )
        self.columns = latent
        before = torch.ones(latent, latent, dtype=torch.bool).tril(-1)
        self.steps = nn.ModuleList(MaskedMLP(before, [width, width], nn.ReLU) for _ in range(steps))
        for step in self.steps:
            nn.init.zeros_(step[-1].weight)  # type: ignore[index]
            nn.init.zeros_(step[-1].bias)  # type: ignore[index]

    def forward(self) -> Distribution:
        return AutoregressiveGaussian(self.means, self.steps[0][-1].bias)  # type: ignore[index]

    def means(self, z: Tensor) -> Tensor:
        """m(z) [..., L] = z - e(z): the mean of each dimension, given the earlier ones."""
        noise = z
        for step in self.steps:
            noise = noise - step(noise)
        return z - noise

    def rate(self, mean: Tensor, log_sigma: Tensor, z: Tensor) -> Tensor:
        return kl_from_standard_normal(mean - self.means(z), log_sigma)


def build_prior(
    config: PriorConfig,
    latent: int,
    shape: tuple[int, int, int],
    moments: Callable[[Tensor], tuple[Tensor, Tensor]],
    bounded: bool,
) -> Prior:
    """The prior that a config names; `moments` and `bounded` as in `VampPrior`."""
    used = config.settings()
    if config.kind == "vamp":
        return VampPrior(used["pseudo_inputs"], shape, moments, bounded)
    if config.kind == "flow":
        return FlowPrior(latent, used["steps"], used["width"])
    return StandardNormal(latent)
