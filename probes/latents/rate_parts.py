"""What the code of a VAE carries, and where its rate goes: active units, the rate of each
dimension, and

    R = I(X; Z) + TC + sum_j KL(q(z_j) || p(z_j)),   TC = KL(q(z) || prod_j q(z_j))

for a prior that factorises (Hoffman & Johnson 2016; Chen et al. 2018). All in nats. n = images, L =
latent dimensions.
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

PAIRS = (
    2**32
    # most values of log q(z_ij | x_k) that the marginals are made of, seconds; beyond it fewer
    # images are read
)
ROWS, COLUMNS = 256, 1024  # of a tile of one dimension, which stays in the cache


def dimension_rates(codes: Codes, prior: Distribution) -> list[float] | None:
    """E KL(q(z_j|x) || p(z_j)) of each dimension, which sum to R; None where the prior does not
    factorise into normals.
    """
    p = normal_factors(prior)
    return None if p is None else kl_divergence(Normal(codes.mean, codes.sigma), p).mean(0).tolist()


def decomposition(codes: Codes, prior: Distribution, joint: Scores | None = None) -> dict[str, Any]:
    """The parts of R for q(z) = (1/n) sum_k q(z|x_k) over these n images, and brackets of TC and
    dimension-wise KL for q(z) over all.

    With z_i ~ q(z|x_i), one an image, and q(z_i) read with image i's own component among the n,
    each part is unbiased for what it says of these n images, and the parts add up term by term to
    log q(z_i|x_i) - log p(z_i):

        I = E log q(z|x) / q(z)  (<= log n),   TC = E log q(z) / prod_j q(z_j),
        dimension-wise KL = sum_j E log q(z_j) / p(z_j)

    Where `joint`, the scores of every pair of an even choice of these images, is of as many as are
    read here, it is not made again.

    Of q(z) over all images, E log q(z) is between its leave-one-out estimate and that with the own
    component, by Jensen's inequality, and E log q(z_j) likewise, so each bracket holds in
    expectation. The parts that name p(z_j) are left out where p(z) does not factorise.
    """
    codes = at_most(codes, math.isqrt(PAIRS // codes.mean.shape[1]))
    with_own, without = (sum_.sum(1) for sum_ in log_marginals(codes.mean, codes.sigma, codes.z))
    if joint is None or len(joint.own) != len(codes.z):
        joint = gaussian(codes.mean, codes.sigma, codes.z)
    of_all, of_others = _log_aggregate(joint)
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
    return {
        "on_these_images": {
            "quantity": "R = I + TC + dimension-wise KL, where q(z) is the mean of q(z|x) over"
            " these images; R at one z an image",
            "images": len(codes.z),
            **{name: bounds(interval(terms)) for name, terms in parts.items()},
        },
        **{
            name: {
                "quantity": QUANTITIES[name],
                "low": max(0.0, low.mean().item()),
                "high": max(0.0, high.mean().item()),
            }
            for name, (low, high) in brackets.items()
        },
    }


QUANTITIES = {
    "total_correlation": "KL(q(z) || prod_j q(z_j))",
    "dimension_wise_kl": "sum_j KL(q(z_j) || p(z_j))",
}


def log_marginals(mean: Tensor, sigma: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """log (1/n) sum_k q(z_ij | x_k) with the own component k = i, and log (1/(n-1)) sum_{k != i}
    without it; float64 [n, L] each.
    """
    n = len(z)
    others = torch.empty(z.shape, dtype=torch.float64, device=z.device)
    mean, sigma, z = mean.double(), sigma.double(), z.double()
    for j in range(z.shape[1]):
        for rows in slices(n, ROWS):
            others[rows, j] = _log_sum_of_others(mean[:, j], 1 / sigma[:, j], z[:, j], rows)
    own = -0.5 * ((z - mean) / sigma) ** 2 - sigma.log()
    constant = 0.5 * math.log(2 * math.pi)
    return torch.logaddexp(own, others) - math.log(n) - constant, others - math.log(
        n - 1
    ) - constant


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
    far = (total < torch.finfo(total.dtype).tiny).nonzero()[
        :, 0
    ]  # all others are 38 sigma away: the sum underflows, its logarithm need not
    found = total.log()
    if len(far):
        exponent = -0.5 * ((z[place[far], None] - mean) * inverse) ** 2 + inverse.log()
        exponent[torch.arange(len(far)), place[far]] = -math.inf
        found[far] = exponent.logsumexp(1)
    return found


def _log_aggregate(joint: Scores) -> tuple[Tensor, Tensor]:
    """log q(z_i) with the own component among the n, and without it; [n] each."""
    n = len(joint.own)
    return torch.logaddexp(joint.own, joint.others) - math.log(n), joint.others - math.log(n - 1)


def at_most(codes: Codes, most: int) -> Codes:
    """Codes of at most that many images, evenly spread."""
    n = len(codes.z)
    if n <= most:
        return codes
    chosen = torch.arange(most, device=codes.z.device) * n // most
    return codes._replace(
        **{key: getattr(codes, key)[chosen] for key in ("mean", "sigma", "z", "rate")}
    )
