"""Description length of labels by a variational code with a Bayesian linear probe.

n = images, D = feature dimensions, Y = classes, s = deviation of the weights under the prior.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from core.information.standardise import mean_and_deviation, standardised
from core.randomness import KeyedRNG
from core.run.features import Features
from probes.labels.logistic import Logistic

PRIORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # deviations of the weights under the prior
BIAS = 3.0  # deviation of the biases
DRAWS = 4  # classifiers for each image


def variational(features: Features, seed: int = 0) -> list[float]:
    """The length in nats of a variational code of each factor's labels, given the features:

        L = KL( q(w) || p(w) ) + sum_i E_q[ -log p(y_i | x_i, w) ] >= -log p(y_1 ... y_n | x)

    where w are the weights of a linear probe, p = N(0, s^2) and q = N(w*, diag) (Hinton & van Camp
    1993; Blier & Ollivier 2018). With bits-back coding, L is the net length of a real code. w* is
    the most probable w, and 1 / variance is the diagonal of the curvature there (Laplace), so no
    variational optimisation is needed; a better q would give a shorter code. s is the best of six
    values; this choice costs log 6 nats. If some classes do not occur, the code first says for
    each class whether it occurs; this costs log 2 nats a class. The mean over q is estimated with 4
    drawn classifiers for each image.
    """
    mean, deviation = mean_and_deviation(features.x)
    x = standardised(features.x, mean, deviation)
    model, lengths = Logistic(x), []
    for column, (factor, classes) in enumerate(features.factors):
        present, y = features.y[:, column].unique(return_inverse=True)
        told = classes * math.log(2) if len(present) < classes else 0.0
        if len(present) == 1:
            lengths.append(told)
            continue
        strengths = tuple(1 / (len(x) * s**2) for s in PRIORS)
        weight, bias = model.parameters(model.fit(y, len(present), strengths, rough=1e-6))
        rng = KeyedRNG(seed, 0).fork(f"variational code of {factor}")
        found = [length(x, y, (w, b), s, rng) for w, b, s in zip(weight, bias, PRIORS, strict=True)]
        lengths.append(min(found) + math.log(len(PRIORS)) + told)
    return lengths


def length(
    x: Tensor, y: Tensor, centre: tuple[Tensor, Tensor], prior: float, rng: KeyedRNG
) -> float:
    """L for x [n, D], y [n], the most probable weights [Y, D] and biases [Y], and one s."""
    with_one = F.pad(x, (0, 1), value=1.0)
    w = torch.cat([centre[0], centre[1][:, None]], 1)
    w = w - w.mean(0)  # changes no prediction
    share = F.softmax(with_one @ w.T, 1)
    squares = with_one.square()
    curvature = (share * (1 - share)).T @ squares  # [Y, D + 1]
    precision = torch.full_like(w, prior**-2)
    precision[:, -1] = BIAS**-2
    variance = 1 / (precision + curvature)
    ratio = (variance * precision).double()
    divergence = 0.5 * (ratio - 1 - ratio.log() + (w.square() * precision).double()).sum()
    logits, spread = (with_one @ w.T).double(), (squares @ variance.T).double().sqrt()
    loss = 0.0
    for draw in range(DRAWS):
        noise = rng.normal(f"draw {draw}", *logits.shape).double()
        loss += F.cross_entropy(logits + spread * noise, y, reduction="sum").item() / DRAWS
    return divergence.item() + loss
