"""The parts of a VAE's rate: the rate of each dimension and, for a prior that factorises,

    R = I(X; Z) + TC + sum_j KL(q(z_j) || p(z_j)),   TC = KL(q(z) || prod_j q(z_j))

(Hoffman & Johnson 2016; Chen et al. 2018). All values are in nats. n = images, L = latent
dimensions.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, kl_divergence

from core.information.bounds import interval
from core.information.chunked import slices
from core.information.codes import Codes, normal_factors
from core.information.scores import Scores, gaussian
from probes.report.schema import bounds

PAIRS = 2**32  # at most this many values of log q(z_ij | x_k); else some images are left out
ROWS, COLUMNS = 256, 1024  # of a block of one dimension, which fits into the cache
QUANTITIES = {
    "total_correlation": "KL(q(z) || prod_j q(z_j))",
    "dimension_wise_kl": "sum_j KL(q(z_j) || p(z_j))",
}


def dimension_rates(codes: Codes, prior: Distribution) -> list[float] | None:
    """E KL(q(z_j|x) || p(z_j)) of each dimension; their sum is R. None if the prior is not a
    product of normals.
    """
    p = normal_factors(prior)
    return None if p is None else kl_divergence(Normal(codes.mean, codes.sigma), p).mean(0).tolist()


def decomposition(codes: Codes, prior: Distribution, joint: Scores | None = None) -> dict[str, Any]:
    """The parts of R for q(z) = (1/n) sum_k q(z|x_k) over these n images, and intervals of TC and
    dimension-wise KL for q(z) over all images.

        I = E log q(z|x) / q(z)  (<= log n),   TC = E log q(z) / prod_j q(z_j),
        dimension-wise KL = sum_j E log q(z_j) / p(z_j)

    Each image has one sample z_i ~ q(z|x_i), and q(z_i) contains image i's own component. So each
    part is unbiased for these n images, and the parts of each image add up to log q(z_i|x_i) -
    log p(z_i). For q(z) over all images, E log q(z) lies between the estimate without the own
    component and the one with it, by Jensen's inequality. The same is true for E log q(z_j). So
    each interval holds in expectation. Parts with p(z_j) are left out if p(z) does not factorise.

    `joint`: scores of all pairs of the images that the caller chose by `at_most`. They are used if
    this function chooses equally many images; otherwise the scores are computed.
    """
    codes = at_most(codes, math.isqrt(PAIRS // codes.mean.shape[1]))
    with_own, without = (sum_.sum(1) for sum_ in log_marginals(codes.mean, codes.sigma, codes.z))
    if joint is None or len(joint.own) != len(codes.z):
        joint = gaussian(codes.mean, codes.sigma, codes.z)
    of_all, of_others = log_aggregate(joint)
    log_prior = prior.log_prob(codes.z).double()
    parts = {
        "rate": joint.own - log_prior,
        "information": joint.own - of_all,
        "total_correlation": of_all - with_own,
    }
    brackets = {"total_correlation": (of_others - with_own, of_all - without)}
    if normal_factors(prior):
        parts["dimension_wise_kl"] = with_own - log_prior
        brackets["dimension_wise_kl"] = (without - log_prior, with_own - log_prior)
    found: dict[str, Any] = {
        "on_these_images": {
            "quantity": "R = I + TC + dimension-wise KL; q(z) is the mean of q(z|x) over"
            " these images; R is computed from one z an image",
            "images": len(codes.z),
            **{name: bounds(interval(terms)) for name, terms in parts.items()},
        }
    }
    for name, ends in brackets.items():
        low, high = (max(0.0, end.mean().item()) for end in ends)
        found[name] = {"quantity": QUANTITIES[name], "low": low, "high": high}
    return found


def log_marginals(mean: Tensor, sigma: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """log (1/n) sum_k q(z_ij | x_k), and log (1/(n-1)) sum_{k != i} without the own component;
    float64 [n, L] each.
    """
    n = len(z)
    others = torch.empty(z.shape, dtype=torch.float64, device=z.device)
    mean, sigma, z = mean.double(), sigma.double(), z.double()
    for j in range(z.shape[1]):
        for rows in slices(n, ROWS):
            others[rows, j] = _log_sum_of_others(mean[:, j], 1 / sigma[:, j], z[:, j], rows)
    own = -0.5 * ((z - mean) / sigma) ** 2 - sigma.log()
    constant = 0.5 * math.log(2 * math.pi)
    with_own = torch.logaddexp(own, others) - math.log(n) - constant
    return with_own, others - math.log(n - 1) - constant


def _log_sum_of_others(mean: Tensor, inverse: Tensor, z: Tensor, rows: slice) -> Tensor:
    """log sum_{k != i} (1 / sigma_k) exp(-((z_i - mean_k) / sigma_k)^2 / 2) for z_i of `rows`, in
    one dimension.
    """
    place = torch.arange(rows.start, rows.stop, device=z.device)
    total = torch.zeros_like(z[rows])
    for columns in slices(len(z), COLUMNS):
        kernel = (z[rows, None] - mean[columns]).mul_(inverse[columns]).square_().mul_(-0.5).exp_()
        own = (place >= columns.start) & (place < columns.stop)
        kernel[own.nonzero()[:, 0], place[own] - columns.start] = 0
        total += kernel @ inverse[columns]
    # if all others are 38 sigma away, the sum underflows, but its logarithm can be computed
    far = (total < torch.finfo(total.dtype).tiny).nonzero()[:, 0]
    found = total.log()
    if len(far):
        exponent = -0.5 * ((z[place[far], None] - mean) * inverse) ** 2 + inverse.log()
        exponent[torch.arange(len(far)), place[far]] = -math.inf
        found[far] = exponent.logsumexp(1)
    return found


def log_aggregate(joint: Scores) -> tuple[Tensor, Tensor]:
    """log q(z_i) with the own component among the n, and without it; [n] each."""
    n = len(joint.own)
    return torch.logaddexp(joint.own, joint.others) - math.log(n), joint.others - math.log(n - 1)


def at_most(codes: Codes, most: int) -> Codes:
    """Codes of at most `most` images, evenly spread."""
    n = len(codes.z)
    if n <= most:
        return codes
    chosen = torch.arange(most, device=codes.z.device) * n // most
    kept = {key: getattr(codes, key)[chosen] for key in ("mean", "sigma", "z", "rate")}
    return codes._replace(**kept)
