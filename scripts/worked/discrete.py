"""Worked examples with finite tables: coins, InfoNCE's ceiling, bits back."""

import math
from collections.abc import Iterator

import numpy as np

from core.information import atoms
from core.information.units import bits

LOADED = [0.9, 0.1]
FAIR = [0.5, 0.5]


def coins() -> Iterator[str]:
    """Entropy, divergence and evidence of two coins."""
    for name, coin in (("fair coin [.5, .5]", FAIR), ("loaded coin [.9, .1]", LOADED)):
        yield f"H of a {name}: {atoms.entropy(coin):.4f} nats = {atoms.entropy(coin, 2):.4f} bits"
    forth, back = atoms.kl(FAIR, LOADED), atoms.kl(LOADED, FAIR)
    yield f"KL(fair || loaded) = {forth:.4f} nats, KL(loaded || fair) = {back:.4f} nats"
    total = atoms.cross_entropy(FAIR, LOADED)
    yield f"coding a fair coin with the loaded coin's code costs H + KL = {total:.4f} nats a toss"
    yield f"KL(fair || [1, 0]) = {atoms.kl(FAIR, [1, 0])}: tails can not be coded at all"
    js = atoms.jensen_shannon(FAIR, LOADED)
    yield f"Jensen-Shannon = {js:.4f} nats, at most log 2 = {math.log(2):.4f}"
    heads, tails = atoms.weight_of_evidence(LOADED, FAIR)
    yield f"evidence for 'loaded': heads {heads:+.4f}, tails {tails:+.4f} nats"
    mean = float(np.dot(LOADED, [heads, tails]))
    yield f"its mean under the loaded coin is KL(loaded || fair): {mean:.4f}"
    odds = 8 * heads + 2 * tails
    share = 1 / (1 + math.exp(-odds))
    yield f"8 heads and 2 tails at even prior odds: log-odds {odds:+.4f}, P(loaded) = {share:.4f}"


def ceiling() -> Iterator[str]:
    """What log C - L can claim."""
    yield "C candidates (one positive): the bound log C - L is at most log C, reached at L = 0"
    yield "      C  ceiling  loss L for a claim of 2, 5, 8 and 10 nats"
    for exponent in range(8, 17, 2):
        top = math.log(2**exponent)
        needed = [f"{top - claim:.3f}" if claim <= top else "none" for claim in (2, 5, 8, 10)]
        yield f"{2**exponent:7d}  {top:7.3f}  {', '.join(needed)}"
    least = math.ceil(math.exp(8))
    yield f"a claim of 8 nats needs C of at least e^8, which is {least:,} candidates"
    # the best bound is log C - E log(1 + Binomial(C - 1, 1 / M)) for M equally likely contents
    contents, negatives = 4096, 255
    p = np.array([_binomial(negatives, k, 1 / contents) for k in range(negatives + 1)])
    best = math.log(negatives + 1) - float(p @ np.log1p(np.arange(negatives + 1)))
    truth = math.log(contents)
    yield f"views that share one of {contents} contents: I = log {contents} = {truth:.3f} nats;"
    yield f"   with C = 256 even the best critic gives {best:.3f}: a lower bound, not an estimate"


def bits_back() -> Iterator[str]:
    """One symbol x with a latent z of two values, in exact arithmetic."""
    prior, given = np.array([0.5, 0.5]), np.array([0.6, 0.2])  # p(z), p(x|z) of the symbol x
    joint = prior * given
    evidence = float(joint.sum())
    posterior = joint / evidence
    yield f"p(z) = [.5, .5], p(x|z) = [.6, .2]: -log p(x) = {-math.log(evidence):.4f} nats"
    yield f"the exact posterior q = p(z|x) = [{posterior[0]:.2f}, {posterior[1]:.2f}]"
    for name, q in (("exact", posterior), ("guess [.5, .5]", prior), ("sure [1, 0]", [1.0, 0.0])):
        q = np.asarray(q)
        back = atoms.entropy(q)
        latent = atoms.cross_entropy(q, prior)
        symbol = float(-(q * np.log(given)).sum())
        rate, gap = atoms.kl(q, prior), atoms.kl(q, posterior)
        yield (
            f"q {name}: sent {latent + symbol:.4f} (z {latent:.4f}, x|z {symbol:.4f}),"
            f" got back {back:.4f}, net {latent + symbol - back:.4f}"
        )
        yield f"   KL(q || p(z)) = {rate:.4f} = z sent - got back; gap KL(q || p(z|x)) = {gap:.4f}"
    net = -math.log(evidence)
    yield f"the net cost with the exact posterior is -log p(x) itself, {bits(net):.4f} bits"


def _binomial(n: int, k: int, p: float) -> float:
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log + k * math.log(p) + (n - k) * math.log1p(-p))
