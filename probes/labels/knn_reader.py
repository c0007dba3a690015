"""Class probabilities from the labels of nearest neighbours.

n, m = training and test images, k = neighbours, Y = classes.
"""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from core.errors import Unmeasurable
from core.information.standardise import require_finite_features
from core.randomness import KeyedRNG
from core.run.features import Features
from probes.labels.knn import search
from probes.labels.reading import Reading, frequency, with_absent

COUNTS, TEMPERATURES, STRENGTHS = (5, 20, 100), (0.03, 0.1, 0.3), (0.03, 0.3, 3.0)
LEAST = 20  # images


class Choice(NamedTuple):
    """How neighbours are turned into probabilities."""

    k: int
    temperature: float
    strength: float  # weight of the class frequencies, in neighbours


def probabilities(similarity: Tensor, labels: Tensor, prior: Tensor, choice: Choice) -> Tensor:
    """float64 [m, Y], from the similarities and labels [m, >= k] of neighbours, nearest first, and
    the class frequencies `prior` [Y]:

        p(y|x) = ( sum_i w_i 1[y_i = y] + strength prior(y) ) / ( sum_i w_i + strength ),
        w_i = exp( (s_i - s_1) / temperature )
    """
    near = similarity[:, : choice.k].double()
    weight = torch.exp((near - near[:, :1]) / choice.temperature)
    votes = (choice.strength * prior).repeat(len(near), 1)
    votes.scatter_add_(1, labels[:, : choice.k], weight)
    return votes / votes.sum(1, keepdim=True)


def readings(train: Features, test: Features, seed: int = 0) -> list[Reading]:
    """Predictions for every factor; labels of test are not read. The number of neighbours, the
    temperature and the strength are chosen by cross-entropy on a held-out tenth of train. Raises
    `Unmeasurable` for fewer than 20 training images and for features that are not finite.
    """
    for name, features in (("training", train), ("test", test)):
        require_finite_features(features.x, f"kNN reader, {name} images")
    n = len(train.x)
    if n < LEAST:
        raise Unmeasurable(f"kNN reader: needs {LEAST} training images, got {n}")
    order = KeyedRNG(seed, 0).permutation("kNN reader", n)
    held, rest = order[: n // 10], order[n // 10 :]
    inside = search(train.x[rest], train.x[held], max(COUNTS))
    outside = search(train.x, test.x, max(COUNTS))
    made = []
    for y, (_, classes) in zip(train.y.T, train.factors, strict=True):
        near, own, prior = y[rest][inside.place], y[held], frequency(y[rest], classes)
        best, least = Choice(1, 1.0, 1.0), float("inf")
        for given in itertools.product(COUNTS, TEMPERATURES, STRENGTHS):
            found = probabilities(inside.similarity, near, prior, Choice(*given))
            loss = -found.gather(1, own[:, None]).log().mean().item()
            if loss < least:
                best, least = Choice(*given), loss
        prior = frequency(y, classes)
        found = probabilities(outside.similarity, y[outside.place], prior, best)
        made.append(Reading(with_absent(found.log(), y), prior.log()))
    return made
