"""Worked examples with samples and models: blind correlation, choice of a model, quantising."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import f, norm

from core.information import atoms, from_samples, gaussians, nml, rate_distortion
from core.information.units import bits, nats

Array = NDArray[np.float64]

NOISE = 0.1
LOG_50 = math.log(50)


def blind() -> Iterator[str]:
    """Y = X^2 + noise, x uniform on [-3, 3]."""
    density, y = _density_of_square(), np.linspace(-1, 10, 22_001)
    entropy = -np.trapezoid(np.where(density > 0, density * np.log(density + 1e-300), 0), y)
    truth = float(entropy) - gaussians.gaussian_entropy(NOISE**2)
    yield "Y = X^2 + N(0, .1^2), X uniform on [-3, 3]"
    yield f"truth: I = h(Y) - h(noise) = {entropy:.3f} - ({entropy - truth:.3f}) = {truth:.3f} nats"
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, 2000)
    samples = x**2 + NOISE * rng.normal(size=2000)
    correlation = float(np.corrcoef(x, samples)[0, 1])
    linear = -0.5 * math.log1p(-(correlation**2))
    yield (
        f"2,000 samples: correlation {correlation:+.3f}; a Gaussian with this correlation has"
        f" {linear:.4f} nats"
    )
    found = from_samples.nearest_neighbour_information(x, samples)
    yield f"nearest neighbours (KSG, an estimate, not a bound): {found:.3f} nats"
    for cells in (4, 16, 64):
        rows, columns = (_cells(side, cells) for side in (x, samples))
        plug_in = from_samples.plug_in_information(rows, columns)
        corrected = from_samples.miller_madow_information(rows, columns)
        yield (
            f"{cells:2d} x {cells:2d} cells of equal counts: plug-in {plug_in:.3f},"
            f" Miller-Madow {corrected:.3f}, at most log {cells} = {math.log(cells):.3f}"
        )


def polynomial() -> Iterator[str]:
    """50 points on a line with noise: how the rules rank the degrees."""
    x = np.linspace(-1, 1, 50)
    truth = 1 + 2 * x

    def lengths(y: Array) -> list[nml.Regression]:
        return [nml.regression(np.vander(x, k, increasing=True), y) for k in range(1, 7)]

    y = truth + 0.5 * np.random.default_rng(0).normal(size=50)
    yield "50 points of y = 1 + 2 x + N(0, .5^2); nats, differences to the line"
    yield "degree  -log p     BIC     NML"
    found = lengths(y)
    line = found[1]
    for degree, entry in enumerate(found):
        differences = (entry.fit - line.fit, entry.bic - line.bic, entry.nml - line.nml)
        yield f"{degree:6d}  " + "  ".join(f"{value:+6.3f}" for value in differences)
    rng, right, margins = np.random.default_rng(1), np.zeros((2, 6), dtype=int), []
    for _ in range(400):
        found = lengths(truth + 0.5 * rng.normal(size=50))
        scores = np.array([[entry.bic, entry.nml] for entry in found]).T
        for rule, best in enumerate(scores.argmin(1)):
            right[rule, best] += 1
        margins.append(scores[0, 5] - scores[0, 1])
    for rule, name in enumerate(("BIC", "NML")):
        shares = ", ".join(f"{share / 4:.1f}" for share in right[rule])
        yield f"400 draws, {name} chooses degree 0 to 5 in {shares} %"
    yield f"BIC's margin of the line over degree 5: mean {np.mean(margins):.3f} nats in these draws"
    low, middle, high = (margin(50, share) for share in (0.025, 0.5, 0.975))
    yield f"   exactly: median {middle:.3f}, 95 % of samples from {low:.3f} to {high:.3f} nats"
    yield f"   it is below 0.176 in {100 * below(50, 0.176):.2f} %, and below 0 in"
    yield f"   {100 * below(50, 0):.2f} % of samples; it never exceeds 2 log 50 = {2 * LOG_50:.3f}"
    yield f"   a margin of 0.176 nats is a ratio of {math.exp(0.176):.2f}"


def margin(n: int, share: float) -> float:
    """A quantile of M, BIC's margin of the line over degree 5, in nats. Each sample is n points of
    a line with Gaussian noise. M is at most this quantile in the given share of the samples.

        M = 2 log n - n/2 log( RSS_1 / RSS_5 ),   RSS_1 / RSS_5 = 1 + 4 F / (n - 6)

    F has the F distribution of 4 and n - 6 degrees of freedom, for any noise and any places x.
    """
    ratio = 1 + 4 * f.isf(share, 4, n - 6) / (n - 6)
    return 2 * math.log(n) - n / 2 * math.log(ratio)


def below(n: int, value: float) -> float:
    """The share of such samples with a margin below a value."""
    ratio = math.exp((2 * math.log(n) - value) * 2 / n)
    return float(f.sf((ratio - 1) * (n - 6) / 4, 4, n - 6))


def quantise() -> Iterator[str]:
    """Weights N(0, 1) in 2 bits each."""
    yield "weights N(0, 1), squared error D; R(D) = 1/2 log(1/D)"
    best = math.exp(-2 * nats(2.0))
    yield f"2 bits at best: D = 2^-4 = {best:.4f}"
    edges, levels = _lloyd_max(4)
    error, entropy = _quantised(edges, levels)
    rate = bits(rate_distortion.gaussian_rate(1.0, error))
    yield f"four levels of Lloyd-Max, 2 bits: D = {error:.4f}; R(D) needs only {rate:.3f} bits"
    yield f"   the entropy of its levels is {bits(entropy):.3f} bits"
    step = float(brentq(lambda s: _uniform(s)[1] - nats(2.0), 0.3, 3.0))
    error, entropy = _uniform(step)
    rate = bits(rate_distortion.gaussian_rate(1.0, error))
    yield (
        f"uniform steps of {step:.3f} and an entropy coder, {bits(entropy):.3f} bits:"
        f" D = {error:.4f}"
    )
    gap = bits(0.5 * math.log(math.pi * math.e / 6))
    yield f"   R(D) there is {rate:.3f} bits; the gap tends to 1/2 log2(pi e / 6) = {gap:.3f} bits"
    yield "codes lie above the curve: only the area above R(D) can be reached"


def _density_of_square() -> Array:
    """p(y) at 22,001 points of [-1, 10]: the density of X^2, 1 / (6 sqrt u) on (0, 9), with noise.
    The integral is over x, because the integrand over u has a pole at 0.
    """

    def at(y: float) -> float:
        root = [math.sqrt(max(0.0, min(9.0, y + shift * NOISE))) for shift in (-6, -2, 0, 2, 6)]
        places = sorted({0.0, *root, 3.0})
        nodes, weights = np.polynomial.legendre.leggauss(24)
        total = 0.0
        for a, b in zip(places, places[1:], strict=False):
            x = a + (b - a) * (nodes + 1) / 2
            total += float((b - a) / 2 * weights @ norm.pdf(y, x**2, NOISE)) / 3
        return total

    coarse = np.linspace(-1, 10, 2201)
    return np.interp(np.linspace(-1, 10, 22_001), coarse, [at(y) for y in coarse])


def _cells(x: Array, count: int) -> NDArray[np.int64]:
    """The number of each sample's cell. All cells hold equally many samples."""
    return np.argsort(np.argsort(x)) * count // len(x)


def _lloyd_max(count: int) -> tuple[Array, Array]:
    """Edges and levels of the best quantiser of N(0, 1) with `count` levels (Max 1960)."""
    levels = norm.ppf((np.arange(count) + 0.5) / count)
    for _ in range(500):
        edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        levels = (norm.pdf(edges[:-1]) - norm.pdf(edges[1:])) / np.diff(norm.cdf(edges))
    return edges, levels


def _quantised(edges: Array, levels: Array) -> tuple[float, float]:
    """Mean squared error, and entropy of the levels in nats."""
    p = np.diff(norm.cdf(edges))
    centre = norm.pdf(edges[:-1]) - norm.pdf(edges[1:])  # integral of x over each cell
    error = 1 - 2 * float(levels @ centre) + float(levels**2 @ p)
    return error, atoms.entropy(p / p.sum())


def _uniform(step: float) -> tuple[float, float]:
    """Error and entropy of a uniform quantiser with a cell around 0, decoded as the cell's mean."""
    inner = (np.arange(-30, 30) + 0.5) * step
    edges = np.concatenate([[-np.inf], inner[np.abs(inner) < 8], [np.inf]])
    p = np.diff(norm.cdf(edges))
    return _quantised(edges, (norm.pdf(edges[:-1]) - norm.pdf(edges[1:])) / p)
