"""Annealed importance sampling (Neal 2001) with Hamiltonian transitions, as Wu et al. (2017) use
it to evaluate decoders.

It goes from a density s(z), which can be sampled, to an unnormalised density with the logarithm
f(z) = log p(x, z), along

    log pi_t(z) = (1 - beta_t) log s(z) + beta_t f(z),   0 = beta_0 < beta_1 < ... < beta_T = 1.

A chain starts at z_0 ~ s; transition t, to z_t, leaves pi_t invariant. The weight of the chain is
log w = sum_t (beta_t - beta_{t-1}) (f - log s)(z_{t-1}), with E w = integral of e^f = p(x). So the
log of the mean weight of several chains is, in expectation, at most log p(x): a stochastic lower
bound. With T = 1 there is no transition, and the result is the importance-weighted bound.

B = images, S = chains of each, L = latent dimensions, T = steps. All values are in nats.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from core.randomness import KeyedRNG

SHARPNESS = 4.0  # of the sigmoid schedule, as in Wu et al.: steps are shortest at both ends
LEAPS = 5  # leapfrog steps of a transition
WANTED = 0.65  # the acceptance rate that step sizes are tuned to
TUNING = 2  # chains of an image that only tune step sizes
FIRST, GAIN = 0.5, 0.2  # the first step size, and how fast its log follows the acceptance rate


class Annealed(NamedTuple):
    log_evidence: Tensor  # [B], the log of the mean weight
    elbo: Tensor  # [B], the mean of f - log s over the first codes of the chains
    accepted: float  # share of transitions


class Point(NamedTuple):
    """Codes [S, B, L] with both log densities [S, B] and their gradients."""

    z: Tensor
    target: Tensor
    start: Tensor
    target_slope: Tensor
    start_slope: Tensor

    def energy(self, beta: float) -> Tensor:
        """-log pi [S, B]."""
        return -((1 - beta) * self.start + beta * self.target)

    def slope(self, beta: float) -> Tensor:
        """The gradient of log pi [S, B, L]."""
        return (1 - beta) * self.start_slope + beta * self.target_slope

    def where(self, chosen: Tensor, other: "Point") -> "Point":
        """This point where `chosen` [S, B] is true, the other point elsewhere."""
        both = zip(self, other, strict=True)
        return Point(*(torch.where(chosen[(...,) + (None,) * (a.ndim - 2)], a, b) for a, b in both))


def anneal(
    log_joint: Callable[[Tensor], Tensor],
    start: Distribution,
    steps: int,
    chains: int,
    rng: KeyedRNG,
) -> Annealed:
    """log p(x) of B images from `chains` chains of `steps` steps each.

    `log_joint` maps codes [S, B, L] to f [S, B] and is differentiable. `start` has batch shape [B]
    and event shape [L]; its standard deviations are the unit of the step sizes. There is one step
    size for each step and image. These are tuned on other chains and then fixed: a transition that
    is tuned on its own chain does not leave pi_t invariant, and then E w = p(x) would not hold.
    """
    betas = schedule(steps)
    sizes = _run(log_joint, start, betas, TUNING, rng.fork("tuning"), None)[1] if steps > 1 else []
    return _run(log_joint, start, betas, chains, rng.fork("chains"), sizes)[0]


def schedule(steps: int) -> list[float]:
    """beta_0 = 0 to beta_T = 1 along a sigmoid (Wu et al. 2017)."""
    raw = torch.sigmoid(SHARPNESS * torch.linspace(-1, 1, steps + 1, dtype=torch.float64))
    return ((raw - raw[0]) / (raw[-1] - raw[0])).tolist()


def _run(
    log_joint: Callable[[Tensor], Tensor],
    start: Distribution,
    betas: list[float],
    chains: int,
    rng: KeyedRNG,
    sizes: list[Tensor] | None,
) -> tuple[Annealed, list[Tensor]]:
    """The result of the chains, and the step sizes [B] of each step: given or tuned."""
    mean, scale = start.mean, start.stddev
    shape = (chains, *mean.shape)

    def noise(purpose: str) -> Tensor:
        return rng.normal(purpose, chains * len(mean), mean.shape[1]).view(shape).to(mean.dtype)

    def evaluate(z: Tensor) -> Point:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            target, first = log_joint(z), start.log_prob(z)
            slopes = (torch.autograd.grad(density.sum(), z)[0] for density in (target, first))
            return Point(z.detach(), target.detach().double(), first.detach().double(), *slopes)

    point = evaluate(mean + scale * noise("start"))
    log_weights, elbo = torch.zeros_like(point.target), (point.target - point.start).mean(0)
    size, used, shares = torch.full_like(mean[:, 0], FIRST), [], []
    for number, (before, beta) in enumerate(zip(betas, betas[1:], strict=False), 1):
        log_weights += (beta - before) * (point.target - point.start)
        if beta == 1:  # the weights are complete, so no transition is needed
            break
        size = size if sizes is None else sizes[number - 1]
        used.append(size)
        stride = size[:, None] * scale
        momentum = first_momentum = noise(f"momentum/{number}")
        moved = point
        for _ in range(LEAPS):
            momentum = momentum + 0.5 * stride * moved.slope(beta)
            moved = evaluate(moved.z + stride * momentum)
            momentum = momentum + 0.5 * stride * moved.slope(beta)
        after, before_leaps = (p.double().square().sum(2) for p in (momentum, first_momentum))
        kinetic = 0.5 * (after - before_leaps)
        log_ratio = point.energy(beta) - moved.energy(beta) - kinetic
        probability = log_ratio.nan_to_num(nan=-math.inf).exp().clamp(max=1)
        lottery = rng.uniform(f"accept/{number}", chains * len(mean)).view(chains, -1)
        point = moved.where(lottery < probability, point)
        shares.append(probability.mean())
        if sizes is None:
            size = size * torch.exp(GAIN * (probability.mean(0) - WANTED)).to(size.dtype)
    accepted = torch.stack(shares).mean().item() if shares else 1.0
    return Annealed(log_weights.logsumexp(0) - math.log(chains), elbo, accepted), used
