"""Variational autoencoders compress an image into a code whose rate is known in nats.

>>> import torch
>>> from torch.distributions import kl_divergence
>>> from vae import VLAE, BetaVAE
>>> images = torch.rand(4, 3, 32, 32)  # [B, C, H, W] in [0, 1], or uint8
>>> vae = BetaVAE(BetaVAE.Config(latent=8), shape=(3, 32, 32)).eval()
>>> vae.encode(images).features.shape  # posterior means [B, L]
torch.Size([4, 8])
>>> z = vae.posterior(images).sample()
>>> vae.likelihood(z).log_prob(vae.target(images, torch.rand(images.shape))).shape  # in nats
torch.Size([4, 3, 32, 32])
>>> VLAE(VLAE.Config(latent=8, likelihood="logistic"), (3, 32, 32)).prior().sample((4,)).shape
torch.Size([4, 8])
"""

from typing import TYPE_CHECKING

from core.lazy import exports

if TYPE_CHECKING:
    from vae.beta import BetaVAE as BetaVAE
    from vae.vlae import VLAE as VLAE

__getattr__, __dir__ = exports(__name__, {"BetaVAE": "vae.beta", "VLAE": "vae.vlae"})
