"""CLID (Lu et al. 2023, "Using Representation Expressiveness and Learnability to Evaluate
Self-Supervised Learning Methods"): are clusters of the features easy to learn, and how many
dimensions do the features have?

n = images, D = feature dimensions. Both parts need no labels. CLID is their sum, after each part is
standardised over the compared checkpoints (`probes.report.selection`). So for a single checkpoint
there are the two parts, but no CLID.
"""

import math

import torch
from torch import Tensor

from core.information.standardise import unit_rows

IMAGES = 2000  # at most; k-means and neighbours of more images take seconds


def cluster_learnability(x: Tensor, seed: int = 0) -> float:
    """The accuracy of a nearest-neighbour classifier of cluster labels, from 0 to 1.

        y = k-means labels of the unit features, sqrt(n) clusters;
        mean over i in the second half of [y_i = y_j],   j the most similar image of the first half

    Features x [n, D] in random order, n >= 4. Well separated clusters give 1. NaN for features that
    are not finite, and if they are all equal: these have no clusters.
    """
    if len(x) < 4:
        raise ValueError(f"x: clusters need 4 images or more, got {len(x)}")
    if not x.isfinite().all() or (x == x[:1]).all():
        return math.nan
    from sklearn.cluster import KMeans  # slow, so not at the top

    unit = unit_rows(x.double()).cpu()
    clusters = min(round(math.sqrt(len(x))), len(unit.unique(dim=0)))
    found = KMeans(clusters, n_init=1, random_state=seed).fit_predict(unit.numpy())
    label, half = torch.from_numpy(found), len(x) // 2
    nearest = (unit[half:] @ unit[:half].T).argmax(1)
    return (label[half:] == label[nearest]).double().mean().item()


def intrinsic_dimension(x: Tensor) -> float:
    """The TwoNN estimate of the dimension of the set that the features lie on (Facco et al. 2017).

        (n - 1) / sum_i log(r2_i / r1_i),   r1, r2 the distances to the two nearest other images

    Features x [n, D]. If the density is constant at the scale of r2, then r2 / r1 has a Pareto
    distribution whose exponent is the dimension, and this is an unbiased estimate of it. Copies (r1
    = 0) are left out. NaN for features that are not finite and for fewer than 3 different images.
    """
    if not x.isfinite().all():
        return math.nan
    points = x.double().unique(dim=0)
    n = len(points)
    if n < 3:
        return math.nan
    # a fast distance loses digits of a small r1, so it only finds candidates
    nearest = (
        torch.cdist(points, points).fill_diagonal_(math.inf).topk(min(4, n - 1), largest=False)
    )
    exact = (points[nearest.indices] - points[:, None]).norm(dim=2).sort(1).values
    ratios = (exact[:, 1] / exact[:, 0]).log()
    total = ratios.sum().item()
    return (n - 1) / total if total > 0 else math.nan
