"""beta-VAE: a diagonal Gaussian code, its rate and its distortion as separate numbers.

Kingma, Welling: Auto-Encoding Variational Bayes, 2014; Higgins et al.: beta-VAE, 2017.
B = images on this process, C H W = image shape, d = C H W, L = latent dimensions.
"""

from core.backbones import STEMS
from core.batch import Batch, Output
from core.decoders import build_decoder
from core.likelihoods import Likelihood, kl_from_standard_normal
from core.method import Method

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vae.networks import build_encoder


@dataclass
class BetaVAEConfig:
    backbone: str = "conv"  # conv | mlp | small | a timm name
    decoder: str = "conv"  # conv | mlp
    stem: str = "cifar"
    width: int = 32  # channels of the first convolution, or hidden units of an mlp
    latent: int = 32
    beta: float = 1.0  # the price of a nat of rate in the training objective
    warmup: float = 0.0  # share of training over which the price rises from 0 to beta
    likelihood: str = "bernoulli"  # bernoulli | logistic | gaussian

    def __post_init__(self) -> None:
        for key in ("width", "latent"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: must be 1 or more, got {getattr(self, key)}")
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta: must be 0 or more, got {self.beta}")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup: must be in [0, 1], got {self.warmup}")
        for key, names in (("likelihood", Likelihood.NAMES), ("decoder", ("conv", "mlp")), ("stem", STEMS)):
            if getattr(self, key) not in names:
                raise ValueError(f"{key}: '{getattr(self, key)}' is none of {', '.join(names)}")


class BetaVAE(Method):
    """Minimises D + beta R with

        R = E KL(q(z|x) || p(z)),   D = E E_q[-log p(x|z)]   in nats an image;

    D + R at beta 1 bounds -log p(x) from above, whatever beta is. Probes read the posterior mean.
    """

    Config = BetaVAEConfig
    views = 1
    criterion = "elbo"
    price: Tensor

    def __init__(self, config: BetaVAEConfig, shape: tuple[int, int, int]):
        super().__init__(config, shape)
        self.encoder = build_encoder(config.backbone, shape, config.width, config.stem)
        self.decoder = build_decoder(config.decoder, config.latent, shape, config.width)
        self.to_posterior = nn.Linear(self.encoder.dim, 2 * config.latent)  # type: ignore[arg-type]
        self.pixels = Likelihood(config.likelihood, shape[0])
        self.register_buffer("price", torch.tensor(0.0 if config.warmup else config.beta))

    def forward(self, batch: Batch) -> Output:
        x = self.target(batch.views[0], batch.draws.uniform("dequantise", *batch.views[0].shape))
        mean, log_sigma = self._moments(x)
        rate = kl_from_standard_normal(mean, log_sigma).mean()
        z = mean + log_sigma.exp() * batch.draws.normal("posterior", *mean.shape).to(mean.dtype)
        distortion = -self.likelihood(z).log_prob(x).sum((1, 2, 3)).mean()
        nelbo = (distortion + rate).detach()
        metrics = {
            "rate": rate.detach(),
            "distortion": distortion.detach(),
            "nelbo": nelbo,
            "elbo": -nelbo,
            "bits_per_dim": nelbo / (x[0].numel() * math.log(2)),
        }
        return Output(distortion + self.price * rate, metrics)

    def after_step(self, progress: float) -> None:
        if self.config.warmup:
            self.price.fill_(self.config.beta * min(1.0, progress / self.config.warmup))

    def posterior(self, x: Tensor) -> Distribution:
        """q(z|x) for images as `target` returns them."""
        mean, log_sigma = self._moments(x)
        return Independent(Normal(mean, log_sigma.exp(), validate_args=False), 1, validate_args=False)

    def prior(self) -> Distribution:
        zeros = torch.zeros(self.config.latent, device=self.price.device)
        return Independent(Normal(zeros, torch.ones_like(zeros)), 1)

    def likelihood(self, z: Tensor) -> Distribution:
        return self.pixels(self.decoder(z).float())

    def target(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.pixels.target(x, noise)

    def embed(self, x: Tensor) -> Tensor:
        """The posterior mean of the image as it is: grey values are not binarised, so that features hold no noise."""
        return self._moments(x)[0]

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_sigma = self.to_posterior(self.encoder(x)).float().chunk(2, 1)
        return mean, log_sigma.clamp(-7, 3)
