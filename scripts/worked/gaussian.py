"""Worked examples with Gaussians: fits both ways, holes of a prior, the shell, data processing."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import chi, norm

from core.information.gaussians import gaussian_information, gaussian_kl

Array = NDArray[np.float64]

GRID = np.linspace(-12, 12, 24_001)


def modes() -> Iterator[str]:
    """KL(p || q) covers both modes; KL(q || p) seeks one."""
    centre, width = 2.0, 0.5
    p = 0.5 * norm.pdf(GRID, -centre, width) + 0.5 * norm.pdf(GRID, centre, width)
    yield "p = half N(-2, .5^2), half N(2, .5^2); q = N(m, s^2)"
    s = math.sqrt(width**2 + centre**2)
    covering = norm.pdf(GRID, 0.0, s)
    yield f"min KL(p || q), maximum likelihood: m = 0.0000, s = {s:.4f} (moments of p)"
    forth, back = divergence(p, covering), divergence(covering, p)
    yield f"   KL(p || q) = {forth:.4f}, KL(q || p) = {back:.4f}"
    yield f"   q(0) = {norm.pdf(0.0, 0.0, s):.4f} where p(0) = {p[len(p) // 2]:.4f}"

    def reverse(parameters: Array) -> float:
        return divergence(norm.pdf(GRID, parameters[0], math.exp(parameters[1])), p)

    found = minimize(reverse, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7})
    m, s = float(found.x[0]), math.exp(float(found.x[1]))
    seeking = norm.pdf(GRID, m, s)
    yield f"min KL(q || p), variational: m = {m:.4f}, s = {s:.4f} (one mode)"
    yield f"   KL(q || p) = {divergence(seeking, p):.4f}, log 2 = {math.log(2):.4f}; KL(p || q) ="
    yield f"   {divergence(p, seeking):.4f}: half of the data would be almost impossible"


def holes() -> Iterator[str]:
    """Four equally likely images with codes q(z|x) = N(m_x, s^2), and the prior N(0, 1)."""
    yield "four images, q(z|x) = N(m_x, s^2), prior N(0, 1); nats"
    yield "means                 s     R       I(X;Z)  KL(q(z)||p(z))  R - I"
    for means, s in (((-3, -1, 1, 3), 0.1), ((-1.2, -0.4, 0.4, 1.2), 0.25), ((0, 0, 0, 0), 1.0)):
        rate = float(np.mean([gaussian_kl(m, s**2, 0.0, 1.0) for m in means]))
        parts = [norm.pdf(GRID, m, s) for m in means]
        mixed = np.mean(parts, 0)
        information = float(np.mean([divergence(part, mixed) for part in parts]))
        gap = divergence(mixed, norm.pdf(GRID))
        named = ", ".join(f"{m:g}" for m in means)
        yield (
            f"{named:<21} {s:.2f}  {rate:6.4f}  {information:6.4f}  {gap:14.4f}  "
            f"{rate - information:.4f}"
        )
    yield f"I is at most log 4 = {math.log(4):.4f}, whatever R is"
    yield "a small KL term (R) does not say that the prior has no holes; a small R - I does"


def shell() -> Iterator[str]:
    """The norm of z ~ N(0, I) in d dimensions."""
    yield "    d  sqrt d  mean |z|  sd |z|  P(|z| < 1)  P(| |z| - sqrt d | < 1.5)"
    for d in (1, 2, 10, 100, 784):
        root = math.sqrt(d)
        inside = chi.cdf(1, d)
        near = chi.cdf(root + 1.5, d) - chi.cdf(max(0.0, root - 1.5), d)
        text = f"{inside:10.4f}" if inside > 1e-3 else f"  10^{_log10_inside(d):7.1f}"
        yield f"{d:5d}  {root:6.3f}  {chi.mean(d):8.3f}  {chi.std(d):6.3f}  {text}  {near:.4f}"
    drop = 0.5 * 784
    yield f"yet the density is largest at 0: it is e^{drop:.0f} times that on the shell of d = 784"


def _log10_inside(d: int) -> float:
    """log10 P(|z| < 1), by the series of the incomplete gamma function, which can not underflow:
    (1/2)^a e^(-1/2) / Gamma(a + 1) sum_n (1/2)^n / ((a + 1) ... (a + n)), a = d / 2.
    """
    a, term, total = d / 2, 1.0, 1.0
    for n in range(1, 30):
        term *= 0.5 / (a + n)
        total += term
    return (-a * math.log(2) - 0.5 - math.lgamma(a + 1) + math.log(total)) / math.log(10)


def processing() -> Iterator[str]:
    """(X, Y) with correlation .8 under p and .2 under q, and shifted means."""
    p, q = np.array([[1, 0.8], [0.8, 1]]), np.array([[1, 0.2], [0.2, 1]])
    joint = gaussian_kl([0, 0], p, [0.5, 0.3], q)
    x, y = gaussian_kl(0, 1, 0.5, 1), gaussian_kl(0, 1, 0.3, 1)
    yield "p: means 0, correlation .8; q: means .5 and .3, correlation .2; variances 1"
    yield f"KL of the joint {joint:.4f}; of X alone {x:.4f}; of Y alone {y:.4f}"
    yield f"chain rule: joint - KL of X = {joint - x:.4f} = E KL(p(y|x) || q(y|x)) >= 0"
    same = gaussian_kl([0, 0], p, [0, 0], np.eye(2))
    yield f"against independence, KL = I(X; Y) = {same:.4f} = -1/2 log(1 - .8^2)"
    # Z = Y + noise of variance 1: cov(X, Z) = .8, var Z = 2
    second = gaussian_information([[1, 0.8], [0.8, 2]], 1)
    yield f"Z = Y + N(0, 1): I(X; Z) = {second:.4f} <= I(X; Y)"


def divergence(p: Array, q: Array) -> float:
    """KL(p || q) of densities on the grid."""
    ratio = np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(q, 1e-300))
    return float(np.trapezoid(p * ratio, GRID))
