"""Whether each feature represents one factor: MIG, DCI and SAP of frozen features.

Each score is 1 if every factor has its own feature, and near 0 if features mix factors. The scores
are not bounds on information: a rotation of the features keeps all information, but lowers the
scores. n = images, D = feature dimensions, F = factors, B = bins.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.errors import Unmeasurable
from core.frozen import Frozen
from core.run.features import Features
from probes.probe import Found, Numbers, Probe

BINS = 20  # of a feature, as in Locatello et al. 2019; equal mass, so monotone maps have no effect
SCORES = ("mig", "sap", "disentanglement", "completeness", "informativeness")
TREES = 20  # extremely randomised trees for each factor
MOST = 5000  # training images for bins, thresholds and trees, so that the probe takes seconds


def disentanglement(train: Features, test: Features, seed: int = 0) -> dict[str, Any]:
    """MIG, DCI and SAP of features for two factors or more. Bins, thresholds and trees are fitted
    to images that are evenly spread over train. All scores are measured on test.
    """
    chosen = torch.arange(min(MOST, len(train.x))) * len(train.x) // min(MOST, len(train.x))
    train, test = (
        Features.of(one.x, one.y, dict(one.factors))
        for one in (Features(train.x[chosen], train.y[chosen], train.factors), test)
    )
    edges = _edges(train.x)
    counts = {
        split: _contingency(_binned(features.x, edges), features)
        for split, features in (("train", train), ("test", test))
    }
    return {
        "split": "test",
        "images": len(test.x),
        "train_images": len(train.x),
        "dimensions": test.x.shape[1],
        "factors": [name for name, _ in test.factors],
        "mig": mig(counts["test"]),
        "sap": sap(counts["train"], counts["test"]),
        **dci(train, test, seed),
        "estimators": {
            "mig": f"plug-in, {BINS} bins of equal mass a feature",
            "sap": f"a class for each of {BINS} bins of equal mass, balanced accuracy on test"
            " above chance",
            "dci": f"{TREES} extremely randomised trees a factor",
        },
    }


def mig(counts: list[Tensor]) -> float:
    """Mutual information gap (Chen et al. 2018): the mean over factors v of (I(c_1; v) - I(c_2; v))
    / H(v), where c_1 and c_2 are the two features with the most information about v.

    `counts`: [D, B, values] for each factor. The plug-in estimate of I is too high by about
    (B - 1)(values - 1) / 2n nats, for both features.
    """
    gaps = []
    for joint in counts:
        p = joint.double() / joint[0].sum()
        value = p.sum(1)[0]
        if (value > 0).sum() < 2:
            raise Unmeasurable("disentanglement: a factor has one value in all test images")
        independent = p.sum(2, keepdim=True) * value
        information = torch.special.xlogy(p, p / independent.clamp(min=1e-300)).sum((1, 2))
        gaps.append(_gap(information) / torch.special.entr(value).sum().item())
    return sum(gaps) / len(gaps)


def sap(train: list[Tensor], test: list[Tensor]) -> float:
    """Separated attribute predictability (Kumar et al. 2018): the mean over factors of the gap in
    accuracy between the two features that predict best.

    To predict a factor from one feature, each bin gets the class that gives the best balanced
    accuracy on train. Accuracies are rescaled so that chance is 0 and perfection 1:
    (accuracy - 1/values) / (1 - 1/values).
    """
    gaps = []
    for fitted, read in zip(train, test, strict=True):
        values = fitted.shape[2]
        shares = fitted / fitted.sum(1, keepdim=True).clamp(min=1)
        likely = shares.argmax(2, keepdim=True)  # [D, B, 1], the class of a bin
        hits = torch.zeros_like(read).scatter_(2, likely, read.gather(2, likely))
        right = hits.sum(1)  # [D, values]
        accuracy = (right / read.sum(1).clamp(min=1)).mean(1)
        gaps.append(_gap((accuracy - 1 / values) / (1 - 1 / values)))
    return sum(gaps) / len(gaps)


def dci(train: Features, test: Features, seed: int = 0) -> dict[str, float]:
    """Disentanglement, completeness and informativeness (Eastwood & Williams 2018), from the
    importances R [D, F] of features to trees.

        disentanglement = sum_d rho_d (1 - H_F(P_d)),
        P_d = R_d / sum_f R_df,   P_f = R_f / sum_d R_df,   rho_d = sum_f R_df / sum R
        completeness = mean_f (1 - H_D(P_f)),   informativeness = mean accuracy on test

    where the logarithm of H_F has the base F, and that of H_D the base D. There must be two factors
    or more.
    """
    from sklearn.ensemble import ExtraTreesClassifier  # slow, so not at the top

    x, x_test = train.x.numpy(), test.x.numpy()
    importance, accuracy = [], []
    for column in range(len(train.factors)):
        trees = ExtraTreesClassifier(TREES, max_features=None, random_state=seed, n_jobs=-1)
        trees.fit(x, train.y[:, column].numpy())
        importance.append(trees.feature_importances_)
        accuracy.append(float((trees.predict(x_test) == test.y[:, column].numpy()).mean()))
    found = scores(torch.from_numpy(np.stack(importance, 1)))
    return found | {"informativeness": sum(accuracy) / len(accuracy)}


def scores(importance: Tensor) -> dict[str, float]:
    """Disentanglement and completeness of importances [D, F]."""
    dimensions, factors = importance.shape
    of_dimension, of_factor = importance.sum(1), importance.sum(0)
    entr = torch.special.entr
    by_dimension = entr(importance / of_dimension.clamp(min=1e-12)[:, None]).sum(1)
    by_factor = entr(importance / of_factor.clamp(min=1e-12)).sum(0)
    apart, whole = (
        1 - by_dimension / math.log(factors),
        1 - by_factor / math.log(max(2, dimensions)),
    )
    whole = torch.where(of_factor > 0, whole, 0.0)  # 0 for a factor that no feature predicts
    weight = of_dimension / importance.sum().clamp(min=1e-12)
    return {"disentanglement": (weight * apart).sum().item(), "completeness": whole.mean().item()}


def _gap(x: Tensor) -> float:
    """The largest minus the second largest of x [D]; the second is 0 if D = 1."""
    top = torch.cat([x, x.new_zeros(1)]).topk(2).values
    return (top[0] - top[1]).item()


def _edges(x: Tensor) -> Tensor:
    """The B - 1 inner quantiles of features [n, D], [D, B - 1]."""
    ordered = x.sort(0).values
    return ordered[[len(x) * b // BINS for b in range(1, BINS)]].T.contiguous()


def _binned(x: Tensor, edges: Tensor) -> Tensor:
    """Features [n, D] as bins [D, n]; equal values share a bin."""
    return torch.searchsorted(edges, x.T.contiguous(), right=True)


def _contingency(bins: Tensor, features: Features) -> list[Tensor]:
    """Counts [D, B, values] for each factor: images by bin of a feature and value of the factor."""
    found = []
    for column, (_, values) in enumerate(features.factors):
        cell = bins * values + features.y[:, column]
        counts = torch.zeros(len(bins), BINS * values, dtype=torch.int64)
        counts.scatter_add_(1, cell, torch.ones_like(cell))
        found.append(counts.view(-1, BINS, values))
    return found


class DisentanglementProbe(Probe):
    """MIG, SAP and DCI of the features, if the data have two known factors or more."""

    name = "disentanglement"
    summary = "MIG, SAP and DCI of the features, if the data have two known factors or more"
    schema = """
        "split", "images", "train_images", "dimensions", "factors", "mig", "sap",
        "disentanglement", "completeness", "informativeness" (these three: DCI), "estimators" """

    def requires(self, frozen: Frozen) -> str:
        values = frozen.source("test").factors.values()
        return "" if sum(count > 1 for count in values) > 1 else "needs two known factors or more"

    def measure(self, frozen: Frozen, **options: int) -> Found:
        train, test = (frozen.features(split) for split in ("trainval", "test"))
        return Found(disentanglement(train, test, frozen.seed))

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {f"disentanglement/{key}": numbers[key] for key in SCORES}

    def sentences(self, numbers: Numbers) -> list[str]:
        return [
            f"MIG {numbers['mig']:.3f}, SAP {numbers['sap']:.3f}; DCI: disentanglement"
            f" {numbers['disentanglement']:.3f}, completeness {numbers['completeness']:.3f},"
            f" informativeness {numbers['informativeness']:.3f};"
            f" factors: {', '.join(numbers['factors'])}"
        ]

    def plain(self, numbers: Numbers) -> list[str]:
        return [
            f"DCI disentanglement {numbers['disentanglement']:.2f} (1 = each dimension represents"
            f" one factor), completeness {numbers['completeness']:.2f} (1 = each factor is in one"
            f" dimension). Factors: {', '.join(numbers['factors'])}."
        ]
