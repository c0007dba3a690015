"""A beta-VAE: a VAE with a diagonal Gaussian code and a schedule for the price of the rate.

Kingma, Welling: Auto-Encoding Variational Bayes, 2014; Higgins et al.: beta-VAE, 2017.
B = images on this process, C H W = image shape, L = latent dimensions, G = terms of the rate.
"""

import math
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from core.batch import Batch, Output, at_least_float32
from core.checks import above_zero, at_least, one_of
from core.information.units import bits_per_dim
from core.method import Compressor, Context, Method
from core.networks.backbones import STEMS
from core.networks.decoders import DECODERS, build_decoder
from core.networks.likelihoods import Likelihood
from vae.figures import reconstructions, samples, traversals
from vae.monitors import REMEDIES, code_monitors, collapse_warning
from vae.networks import build_encoder
from vae.priors import PriorConfig, build_prior
from vae.rate import RateConfig, RateSchedule

INFORMATIVE = 0.01  # nats; a dimension with at least this rate is called informative


@dataclass
class BetaVAEConfig:
    backbone: str = "conv"  # conv | mlp | residual | linear | small | what_where | a timm name
    decoder: str = "conv"  # conv | mlp | residual | linear
    stem: str = "cifar"  # cifar | imagenet: the first layers of a timm backbone
    # conv: channels of the first convolution; residual: channels at half size; mlp: hidden units
    width: int = 32
    latent: int = 32  # dimensions of z
    rate: RateConfig = field(default_factory=RateConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    # the distribution of pixels given z: bernoulli | categorical | logistic | logistic_mixture |
    # gaussian | normal
    likelihood: str = "bernoulli"
    sigma: float | None = None  # normal: a fixed standard deviation; null = trained
    components: int | None = None  # logistic_mixture: number of components (default 10)

    def __post_init__(self) -> None:
        at_least(self, width=1, latent=1)
        one_of(self, likelihood=Likelihood.NAMES, decoder=DECODERS, stem=STEMS)
        for key, owner in (("sigma", "normal"), ("components", "logistic_mixture")):
            if getattr(self, key) is None:
                continue
            if self.likelihood != owner:
                raise ValueError(f"{key}: only the likelihood {owner} has it; set it to null")
            above_zero(self, key)


class BetaVAE(Method):
    """Minimises an objective of rate and distortion, which the schedule defines (`vae.rate`):

        R = E KL(q(z|x) || p(z)),   D = E E_q[-log p(x|z)]   in nats per image;

    D + R (beta 1) is an upper bound on -log p(x), for every schedule. Probes read the posterior
    mean.
    """

    Config = BetaVAEConfig
    views = 1
    criterion = "elbo"
    remedies: tuple[str, ...] = REMEDIES  # what the config offers against a collapse of the code

    def __init__(self, config: BetaVAEConfig, shape: tuple[int, int, int]):
        super().__init__(config, shape)
        self.pixels = Likelihood(config.likelihood, shape[0], config.sigma, config.components or 10)
        self.encoder = build_encoder(config.backbone, shape, config.width, config.stem)
        output = (shape[0] * self.pixels.channels, *shape[1:])
        self.decoder = build_decoder(config.decoder, config.latent, output, config.width)
        self.to_posterior = nn.Linear(self.encoder.dim, 2 * config.latent)  # type: ignore[arg-type]
        self.code_prior = build_prior(
            config.prior, config.latent, shape, self.moments, bounded=self.discrete()
        )
        self.schedule = RateSchedule(config.rate, self.code_prior.columns)

    def forward(self, batch: Batch) -> Output:
        x = self.target(batch.views[0], batch.rng.uniform("dequantise", *batch.views[0].shape))
        noise = batch.rng.normal("posterior", len(x), self.config.latent)
        mean, log_sigma, z, distortion = self.in_micro_batches(self._sampled, x, noise)
        return self.output(self.code_prior.rate(mean, log_sigma, z), distortion)

    def _sampled(self, x: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        """Mean and log sigma of q(z|x), a sample z [B, L] and the distortion [B]."""
        mean, log_sigma = self.moments(x)
        z = mean + log_sigma.exp() * noise.to(mean.dtype)
        return mean, log_sigma, z, -self.likelihood(z).log_prob(x).flatten(1).sum(1)

    def output(self, rate: Tensor, distortion: Tensor) -> Output:
        """The objective of rate [B, G] and distortion [B], and metrics R, D and D + R (beta 1)."""
        price = self.schedule.price.clone()
        loss = self.schedule(rate, distortion)
        columns, d = rate.detach().mean(0), distortion.detach().mean()
        r = columns.sum()
        metrics = {"rate": r, "distortion": d, "nelbo": d + r, "elbo": -d - r, "price": price}
        if self.discrete():
            metrics["bits_per_dim"] = bits_per_dim(d + r, math.prod(self.shape))
        if len(columns) > 1:
            metrics["informative_dimensions"] = (columns >= INFORMATIVE).sum().float()
        return Output(loss, metrics)

    def after_step(self, progress: float) -> None:
        self.schedule.after_step(progress)

    def monitors(self, context: Context) -> dict[str, float]:
        return code_monitors(self, context)

    def warning(self, scores: dict[str, float]) -> str:
        return collapse_warning(scores, self.config.latent, self.remedies)

    def figures(self, batch: Batch) -> dict[str, list[Tensor]]:
        x = batch.views[0]
        made = {"reconstructions": reconstructions(self, x[:10]), "traversals": traversals(self, x)}
        return made | {"samples": samples(self)}

    def posterior(self, x: Tensor) -> Distribution:
        """q(z|x) for images from `target`."""
        mean, log_sigma = self.moments(x)
        normal = Normal(mean, log_sigma.exp(), validate_args=False)
        return Independent(normal, 1, validate_args=False)

    def prior(self) -> Distribution:
        return self.code_prior()

    def likelihood(self, z: Tensor) -> Distribution:
        return self.pixels(at_least_float32(self.decoder(z)))

    def discrete(self) -> bool:
        return self.pixels.name != "normal"

    def target(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.pixels.target(x, noise)

    def embed(self, x: Tensor) -> Tensor:
        """The posterior mean. Grey values are not binarised here, so features contain no noise."""
        return self.moments(x)[0]

    def compressor(self) -> Compressor:
        """A lossless codec by bits-back coding; `UserError` if the likelihood is a density."""
        from vae.container import Packer  # here, because it imports this module

        return Packer(self)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log sigma of q(z|x), [B, L] each."""
        mean, log_sigma = at_least_float32(self.to_posterior(self.encoder(x))).chunk(2, 1)
        return mean, log_sigma.clamp(-7, 3)
