"""The geometry of codes: whether views of one image agree, and whether different images differ.

n = images, V = views of each, D = dimensions. Unit codes are rows of length one. These numbers do
not measure information. They show what a bound does not: which dimensions an encoder uses.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from core.information.standardise import unit_rows

BLOCK = 512  # rows whose distances to all others are in memory at a time
EPSILON = 1e-7  # added to each share of a spectrum, as in RankMe for float32
DEAD = 0.01  # a dimension is dead if its deviation is below this; evenly spread features have 1
ROUNDING = 1e-6  # smaller relative differences are rounding errors of float32


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of two views, E |f(x) - f(y)|^2 (Wang & Isola 2020, alpha = 2).

    Takes unit codes first, second [n, D]. Returns a scalar from 0 (the views agree) to 4; unrelated
    views give 2. A collapse also gives 0, so read it together with `uniformity`. The value equals
    2 (1 - mean cosine), and is exactly 0 for equal codes.
    """
    return (first - second).square().sum(1).mean()


def uniformity(codes: Tensor) -> float:
    """log E exp(-2 |f(x) - f(y)|^2) over pairs of different images (Wang & Isola 2020, t = 2).

    Unit codes [n, D], or zeros after a collapse. 0 means that all codes are equal. Evenly spread
    codes give log(exp(-4) I_0(4)) = -1.58 on a circle (I_0: the modified Bessel function), and
    about -4 in many dimensions. Memory is BLOCK x n.
    """
    n = len(codes)
    if n < 2:
        raise ValueError(f"codes: pairs need 2 or more, got {n}")
    codes = _real(codes)
    square = codes.square().sum(1)
    total = torch.zeros((), dtype=torch.float64, device=codes.device)
    for start in range(0, n, BLOCK):
        # squared distances of these rows to themselves and to all later rows
        rows = slice(start, start + BLOCK)
        cosine = codes[rows] @ codes[start:].T
        apart = square[rows, None] + square[start:] - 2 * cosine
        total += apart.mul_(-2).exp_().triu_(1).sum(dtype=torch.float64)
    return math.log(total.item() / (n * (n - 1) / 2))


def effective_rank(x: Tensor) -> float:
    """RankMe (Garrido et al. 2023): exp of the entropy of the normalised singular values of
    features x [n, D].

        exp(-sum_k p_k log p_k),   p_k = sigma_k / |sigma|_1 + epsilon,   epsilon = 1e-7

    It lies between 1 (all features on one line through the origin) and min(n, D) (all directions
    equal). As in the paper, features are not centred: a nonzero mean counts as one direction, and a
    collapse to a point gives 1, not the rank of its rounding errors. NaN for features that are not
    finite.
    """
    if not x.isfinite().all():
        return math.nan
    return _spectral_rank(torch.linalg.svdvals(x.double()))


def lidar(views: Tensor, delta: float = 1e-4) -> float:
    """LiDAR (Thilak et al. 2024): the effective rank of the variance between images relative to the
    variance between views of one image.

        S_b = cov of the images' means,   S_w = mean cov of an image's views + delta I,
        exp(-sum_k p_k log p_k),   p_k = lambda_k / |lambda|_1 + epsilon,
        lambda the eigenvalues of S_w^{-1/2} S_b S_w^{-1/2}

    `views` are features of V >= 2 views of n >= 2 images, [n, V, D]. The value lies between 1 and
    min(n - 1, D); a collapse gives 1. A direction in which the views of one image differ as much as
    different images has little weight here, unlike in `effective_rank`. S_b contains S_w / V, the
    noise of a mean of V views, so features that ignore the image also give a high value: read it
    together with `alignment`. NaN for features that are not finite.
    """
    n, v, d = views.shape
    if n < 2 or v < 2:
        raise ValueError(f"views: 2 or more views of 2 or more images, got {v} of {n}")
    if not views.isfinite().all():
        return math.nan
    x = views.double()
    mean = x.mean(1)
    between = (mean - mean.mean(0)).T.cov().reshape(d, d)
    if between.trace() <= ROUNDING**2 * x.square().sum(2).mean():
        return 1.0  # all images have the same features, up to rounding
    scatter = (x - mean[:, None]).flatten(0, 1)
    identity = torch.eye(d, dtype=x.dtype, device=x.device)
    within = scatter.T @ scatter / (n * (v - 1)) + delta * identity
    # L^-1 S_b L^-T has the eigenvalues of S_w^-1/2 S_b S_w^-1/2
    factor = torch.linalg.cholesky(within)
    half = torch.linalg.solve_triangular(factor, between, upper=False)
    whitened = torch.linalg.solve_triangular(factor, half.T, upper=False)
    return _spectral_rank(torch.linalg.eigvalsh((whitened + whitened.T) / 2).clamp(min=0))


def spectral_decay(x: Tensor) -> float:
    """alpha-ReQ (Agrawal et al. 2022): the exponent alpha of the power law lambda_j ~ j^-alpha of
    the eigenvalues of the covariance of features x [n, D], lambda_1 the largest.

        the slope of -log lambda_j on log j, by least squares with weights 1 / j (Stringer et al.
        2019), over the eigenvalues 11 to 100; for k < 40 eigenvalues, without the first k / 4

    0 means that all directions vary equally; the paper finds the best accuracy near 1. Eigenvalues
    below the rounding error of the features are not counted. NaN if the fit has fewer than 3
    eigenvalues, as after a collapse, and for features that are not finite.
    """
    if not x.isfinite().all():
        return math.nan
    x = _real(x)
    singular = torch.linalg.svdvals(x.double() - x.double().mean(0))
    kept = singular[singular > torch.finfo(x.dtype).eps * math.sqrt(len(x)) * x.abs().max()]
    k = len(kept)
    first, last = min(10, k // 4), min(100, k)
    if last - first < 3:
        return math.nan
    j = torch.arange(first + 1, last + 1, dtype=torch.float64, device=x.device)
    weight, log_j, log_value = 1 / j, j.log(), 2 * kept[first:last].log()
    centred = log_j - (weight * log_j).sum() / weight.sum()
    return -((weight * centred * log_value).sum() / (weight * centred.square()).sum()).item()


class Deviations(NamedTuple):
    """Standard deviations of unit features, times sqrt(D): 0 = collapsed, 1 = evenly spread."""

    mean: float
    least: float
    dead: float  # share of dimensions below DEAD


def deviations(x: Tensor) -> Deviations:
    """The deviation of each dimension of x / |x| over images, times sqrt(D) (SimSiam, Chen & He
    2021, section 4.1).

    Features x [n, D], n >= 2. The root mean square over dimensions is at most 1, and about 1 if the
    mean of the unit features is zero. A collapse to a point gives 0, and an unused dimension counts
    as dead.
    """
    each = unit_rows(x.double()).std(0) * math.sqrt(x.shape[1])
    return Deviations(each.mean().item(), each.min().item(), (each < DEAD).double().mean().item())


def _real(x: Tensor) -> Tensor:
    """Numbers of any type as float32, or float64 if they are."""
    return x if x.dtype == torch.float64 else x.float()


def _spectral_rank(spectrum: Tensor) -> float:
    """exp of the entropy of a normalised spectrum [k] >= 0; rank 1 if it is empty or zero."""
    total = spectrum.sum()
    if total <= 0:
        return 1.0
    share = spectrum / total + EPSILON
    return math.exp(-(share * share.log()).sum().item())
