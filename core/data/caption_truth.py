"""The exact information between an image and a caption that tells each factor with a known
probability. A caption *tells* a factor if it states the factor's value.

The content c is uniform over M combinations of independent factors with n_f values. A caption t
tells a random set S of factors, which is drawn independently of the content. Its wording carries no
information. The caption determines (S, c_S). With R_S = prod_{f in S} n_f,

    p(t | c) / p(t) = R_S if c agrees with t on S, else 0
    I(image; caption) = E log R_S = sum_f P(f is told) log n_f   nats

because the image determines c. K = negatives, n = pairs.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from core.data.source import TextTruth
from core.data.sprites import best_infonce

STEP = 0.02  # of the integral's grid; the trapezoid rule converges exponentially here


class Telling:
    """The distribution of R_S: each factor of `counts` is told with probability `told`."""

    def __init__(self, counts: Mapping[str, int], told: Mapping[str, float]):
        self.told = dict(told)
        self.nats = math.fsum(told[factor] * math.log(n) for factor, n in counts.items())
        sizes: dict[int, float] = defaultdict(float)
        choices = [((1, 1 - told[factor]), (n, told[factor])) for factor, n in counts.items()]
        for chosen in itertools.product(*choices):
            probability = math.prod(share for _, share in chosen)
            if probability:
                sizes[math.prod(n for n, _ in chosen)] += probability
        self.sizes = dict(sizes)  # R -> probability

    @property
    def truth(self) -> TextTruth:
        return TextTruth(
            self.nats,
            self.from_image,
            self.from_text,
            self.recall_from_image,
            self.recall_from_text,
            self.told,
        )

    def from_text(self, negatives: int) -> float:
        """The largest expected log(K + 1) - L, with the InfoNCE loss L in nats, for a caption that
        is compared with its own image and K independent ones. The best critic finds the images
        that agree with the caption, but can not tell them apart.
        """
        return math.fsum(p * best_infonce(negatives, r) for r, p in self.sizes.items())

    def from_image(self, negatives: int) -> float:
        """The same for an image that is compared with its own caption t and K others, t_j:

        log(K + 1) - E log(1 + X / r(t)),   X = sum_j r(t_j),   r = p(t | c) / p(t)

        Because log(1 + x) = int_0^inf (1 - e^(-s x)) e^(-s) / s ds and the terms of X are
        independent, the expectation over X is an integral over one variable.
        """
        s = np.exp(np.arange(-60.0, 4.5, STEP))  # ds / s = d log s
        r = np.array(list(self.sizes), dtype=float)[:, None]
        p = np.array(list(self.sizes.values()))[:, None]
        lost = 0.0
        for own, probability in self.sizes.items():
            # log E exp(-(s / own) r(t_j)), precise for small s, too
            log_mean = np.log1p((p / r * np.expm1(-(s / own) * r)).sum(0))
            lost += probability * float((-np.expm1(negatives * log_mean) * np.exp(-s)).sum()) * STEP
        return math.log(negatives + 1) - lost

    def recall_from_text(self, pairs: int, k: int) -> float:
        """The largest expected share of captions whose own image is among the k nearest of n:
        E min(1, k / (1 + Binomial(n - 1, 1 / R))).
        """
        from scipy.stats import binom  # takes half a second, and training does not need it

        others = np.arange(pairs)
        hit = np.minimum(1.0, k / (1 + others))
        return math.fsum(
            p * float(binom(pairs - 1, 1 / r).pmf(others) @ hit) for r, p in self.sizes.items()
        )

    def recall_from_image(self, pairs: int, k: int) -> float:
        """The same for images. Among the captions that agree with an image, the best critic ranks
        those that tell more factors first.
        """
        from scipy.stats import binom

        others, total = np.arange(pairs), 0.0
        for own, probability in self.sizes.items():
            above = sum(p / r for r, p in self.sizes.items() if r > own)
            equal = self.sizes[own] / own
            for first in range(min(k, pairs)):  # number of agreeing captions that tell more
                left = pairs - 1 - first
                chance = binom(pairs - 1, above).pmf(first)
                ties = binom(left, min(1.0, equal / (1 - above))).pmf(others[: left + 1])
                hit = np.minimum(1.0, (k - first) / (1 + others[: left + 1]))
                total += probability * float(chance * (ties @ hit))
        return total
