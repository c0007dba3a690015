"""Linear-Gaussian images: density, entropy, rate-distortion function and information are known.

    x = W z + s e,   z ~ N(0, I) in r dimensions,   e ~ N(0, I) in d,
    so that x ~ N(0, Sigma),   Sigma = W W' + s^2 I

The *content* z of image i is a function of (seed, split, i); the *nuisance* e is drawn afresh for
each view. The columns of W are the r smoothest patterns of the two-dimensional cosine transform,
scaled, so the eigenvectors and eigenvalues of Sigma are known exactly.

B = images, n = images in the split, S = image side, d = S * S values of an image, r = rank.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.batch import Batch
from core.checks import above_zero, counts
from core.data.source import Sampler, Source, Truth
from core.randomness import KeyedRNG
from core.transfer import send


@dataclass
class LinearGaussianConfig:
    """The spectrum of the content, the noise, and the sizes of the splits."""

    side: int = 8  # side of an image in pixels
    rank: int = 12  # number of patterns
    largest: float = 16.0  # variance of the first pattern
    decay: float = 0.6  # ratio of the variances of consecutive patterns
    noise: float = 0.05  # standard deviation of the noise of a value
    train: int = 65536  # number of training images
    validation: int = 8192  # number of validation images
    test: int = 65536  # number of test images

    def __post_init__(self) -> None:
        sizes = dict.fromkeys(("train", "validation", "test"), 2**24)
        counts(self, "linear_gaussian.", side=64, rank=self.side**2, **sizes)
        above_zero(self, "largest", "noise", prefix="linear_gaussian.")
        if not 0 < self.decay <= 1:
            raise ValueError(f"linear_gaussian.decay: must be in (0, 1], got {self.decay}")

    @property
    def variances(self) -> Tensor:
        """Variances of the patterns, float64 [d], in descending order; 0 beyond the rank."""
        powers = torch.arange(self.side**2, dtype=torch.float64)
        return torch.where(powers < self.rank, self.largest * self.decay**powers, 0.0)

    @property
    def eigenvalues(self) -> Tensor:
        """Eigenvalues of the covariance Sigma, float64 [d], in descending order."""
        return self.variances + self.noise**2


class LinearGaussian(Source):
    """One split. Views of an image share its content and differ in noise, so

        I(V1; V2) = 1/2 sum_i log( lambda_i^2 / (lambda_i^2 - v_i^2) )   nats,

    with v_i the variance of pattern i and lambda_i = v_i + s^2. The label is the sign of the first
    pattern's coefficient.
    """

    Config, name = LinearGaussianConfig, "linear_gaussian"
    factors = {"sign": 2}
    rendered, augmentation = True, "fresh rendering"

    def __init__(self, config: LinearGaussianConfig, split: str, seed: int):
        self.config, self.split, self.seed = config, split, seed
        self.shape = (1, config.side, config.side)
        self.eigenvalues, variances = config.eigenvalues, config.variances
        self.patterns = patterns(config.side)
        correlations = (variances / self.eigenvalues)[: config.rank]
        self.truth = Truth(
            float(-0.5 * torch.log1p(-(correlations**2)).sum()),
            functools.partial(best_infonce, correlations=correlations),
        )
        sizes = {"train": config.train, "val": config.validation, "test": config.test}
        parts = ("train", "val") if split == "trainval" else (split,)
        rng = {part: KeyedRNG(seed, 0).fork(f"linear_gaussian/{part}") for part in parts}
        self.content = torch.cat(
            [rng[part].normal("content", sizes[part], config.rank) for part in parts]
        )  # [n, r]
        self._weights = (self.patterns * variances.sqrt()).T[: config.rank].float()  # W', [r, d]

    @classmethod
    def check(cls, data: Any) -> None:
        allowed = {
            "augment": ("none",),
            "probe_augment": ("", "none"),
            "size": (0, data.linear_gaussian.side),
        }
        for key, values in allowed.items():
            if getattr(data, key) not in values:
                given = getattr(data, key)
                if key == "size":
                    raise ValueError(
                        "size: images of linear_gaussian are not resized, because they have real"
                        f" values; leave data.size out, and set data.linear_gaussian.side={given}"
                    )
                raise ValueError(
                    f"{key}: '{given}' needs 8-bit images, but linear_gaussian has real values; set"
                    f" data.{key}=none"
                )
        super().check(data)

    def __len__(self) -> int:
        return len(self.content)

    def batches(self, order: Sampler, views: int) -> Iterator[Batch]:
        for index, rng in order:
            content = self.content[index]
            clean = (content @ self._weights).view(-1, *self.shape)
            label = (content[:, :1] > 0).long()
            clean, label, index = send([clean, label, index], rng.device)
            noise = (
                rng.fork(f"{self.split}/view{v}").normal("noise", *clean.shape)
                for v in range(views)
            )
            yield Batch(tuple(clean + self.config.noise * e for e in noise), label, index, rng)

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log N(x; 0, Sigma) of images [B, 1, S, S], float64 [B], in nats per image."""
        coefficients = x.flatten(1).double() @ self.patterns.to(x.device)
        eigenvalues = self.eigenvalues.to(x.device)
        return -0.5 * (
            coefficients**2 / eigenvalues + eigenvalues.log() + math.log(2 * math.pi)
        ).sum(1)

    @property
    def entropy(self) -> float:
        """h(X) = 1/2 sum_i log(2 pi e lambda_i), nats per image: the least D + R of any model."""
        return float(0.5 * (2 * math.pi * math.e * self.eigenvalues).log().sum())


def patterns(side: int) -> Tensor:
    """The orthonormal cosine patterns of S x S values as columns, from smooth to rough, [d, d]."""
    from scipy.fft import dct  # takes time, and only this set needs it

    waves = dct(np.eye(side), norm="ortho", axis=0)  # [frequency, place]
    frequencies = sorted(np.ndindex(side, side), key=lambda at: (at[0] ** 2 + at[1] ** 2, at))
    return torch.from_numpy(
        np.stack([np.outer(waves[row], waves[column]).ravel() for row, column in frequencies], 1)
    )


def best_infonce(negatives: int, correlations: Tensor) -> float:
    """The largest expected log(K + 1) - L of any critic with K independent negatives, in nats, for
    pairs of normal coefficients with these correlations, float64 [r]. L is the InfoNCE loss.

        E log( (K + 1) p(y|x) / (p(y|x) + sum_j p(y_j|x)) )

    The expectation is a mean over 4,096 pairs (always the same), in groups that share K negatives.
    log p(y|x) / p(y), whose mean I(X; Y) is known, serves as a control variate. The standard error
    is about 0.01 nats; the value never exceeds I(X; Y) or log(K + 1).
    """
    draws, group = 4096, 32 if negatives <= 1024 else 256
    rng = KeyedRNG(0, negatives).fork("linear_gaussian/best_infonce")
    x, noise = (rng.normal(name, draws, len(correlations)).double() for name in ("x", "noise"))
    y = correlations * x + (1 - correlations**2).sqrt() * noise
    information = -0.5 * float(torch.log1p(-(correlations**2)).sum())

    # quadratic(y) is the term of log p(y|x) / p(y) that depends only on y; quadratic(x) is the term
    # that depends only on x
    def quadratic(values: Tensor) -> Tensor:
        return -0.5 * (values**2 * correlations**2 / (1 - correlations**2)).sum(-1)

    slope = x * correlations / (1 - correlations**2)
    own = information + quadratic(x) + quadratic(y) + (slope * y).sum(1)
    rest = []
    for number, part in enumerate(torch.arange(draws).split(group)):
        others = rng.fork(str(number)).normal("negatives", negatives, len(correlations)).double()
        score = slope[part] @ others.T + quadratic(others) + quadratic(x[part])[:, None]
        rest.append((score + information).logsumexp(1))
    terms = math.log(negatives + 1) - torch.nn.functional.softplus(torch.cat(rest) - own)
    known = own - information  # its mean is 0
    found = float((terms - (terms @ known) / (known @ known) * known).mean())
    return min(found, information, math.log(negatives + 1))
