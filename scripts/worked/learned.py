"""Worked example with a trained model: a VAE with two latent dimensions on scanned digits.

n = images, L = latent dimensions.
"""

import math
from collections.abc import Iterator
from statistics import fmean
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from core.batch import Batch
from core.information.bounds import interval, sandwich
from core.information.from_samples import plug_in_entropy
from core.information.scores import gaussian
from core.networks.likelihoods import kl_from_standard_normal
from core.randomness import KeyedRNG
from vae.beta import BetaVAE, BetaVAEConfig
from vae.rate import RateConfig

EPOCHS, BATCH, TEST = 20, 100, 297
DRAWS = 20  # codes of each test image


class Measured(NamedTuple):
    """Means over test images, in nats an image."""

    rate: float
    distortion: float
    lower: float
    upper: float


def vae() -> Iterator[str]:
    """R, D and the bounds on I(X; Z) for beta 1 and 4."""
    found = load_digits()
    x = torch.from_numpy(found.images >= 8).float()[:, None]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = x[order[TEST:]], x[order[:TEST]]
    labels = plug_in_entropy(found.target[order[:TEST].numpy()])
    yield f"scikit-learn's digits, 8 x 8 pixels of 0 or 1: {len(train)} train, {len(test)} test"
    yield f"two latent dimensions, {EPOCHS} epochs; nats an image on test"
    yield "beta      R       D   D + R   I(X;Z) at least  at most  R - I at most"
    for beta in (1.0, 4.0):
        one = trained(train, test, beta)
        total, top = one.rate + one.distortion, min(one.upper, one.rate)
        yield (
            f"{beta:4.0f}  {one.rate:5.2f}  {one.distortion:6.2f}  {total:6.2f}  "
            f"{one.lower:15.2f}  {top:7.2f}  {one.rate - one.lower:13.2f}"
        )
    yield f"the label of a digit has H = {labels:.2f} nats, a different quantity from I(X;Z);"
    yield f"{len(test)} images can show at most log {len(test)} = {math.log(len(test)):.2f} nats"
    yield "D is far from 0: R or I says how much the code holds, not how well it draws"


def trained(train: Tensor, test: Tensor, beta: float) -> Measured:
    """Train on images `train` [n, 1, H, W] of 0 or 1, and measure on images `test`."""
    config = BetaVAEConfig(
        backbone="mlp", decoder="mlp", width=128, latent=2, rate=RateConfig("constant", beta)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BetaVAE(config, (1, *test.shape[2:]))
    optimizer, step = torch.optim.Adam(model.parameters(), lr=2e-3), 0
    for epoch in range(EPOCHS):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(BATCH):
            step += 1
            batch = Batch((train[rows],), rows[:, None], rows, KeyedRNG(0, step))
            optimizer.zero_grad()
            model(batch).loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        rng = KeyedRNG(1, 0)
        x = model.target(test, rng.uniform("dequantise", *test.shape))
        mean, log_sigma = model.moments(x)
        rate = kl_from_standard_normal(mean, log_sigma).sum(1).mean().item()
        found = []
        for draw in range(DRAWS):
            z = mean + log_sigma.exp() * rng.normal(f"posterior {draw}", len(test), 2)
            d = -model.likelihood(z).log_prob(x).flatten(1).sum(1).mean().item()
            bounds = sandwich(gaussian(mean, log_sigma.exp(), z))
            found.append((d, *(interval(*bound).mean for bound in bounds)))
    return Measured(rate, *map(fmean, zip(*found, strict=True)))
