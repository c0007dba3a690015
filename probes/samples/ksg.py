"""The nearest-neighbour estimate of Kraskov, Stoegbauer, Grassberger 2004, for few dimensions. It
is not a bound.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma
from sklearn.neighbors import KDTree, NearestNeighbors

Array = NDArray[np.float64]


def ksg_terms(x: Array, y: Array, neighbours: int = 3) -> Array:
    """Terms [n] whose mean estimates I(X; Y) in nats, for x [n, dx], y [n, dy]: algorithm 1 of the
    paper, in the maximum norm.

        psi(k) + psi(n) - psi(n_x + 1) - psi(n_y + 1)

    n_x: the number of other samples that are closer to x_i than its k-th neighbour in the joint
    space. The estimate is consistent, but too low in many dimensions or at high information.
    scikit-learn has it for single columns (`mutual_info_regression`).
    """
    joint = NearestNeighbors(n_neighbors=neighbours, metric="chebyshev")
    distances = joint.fit(np.concatenate([x, y], 1)).kneighbors()[0]
    radius = np.nextafter(distances[:, -1], 0)  # strictly closer
    near_x, near_y = (  # the sample itself is included
        KDTree(side, metric="chebyshev").query_radius(side, radius, count_only=True)
        for side in (x, y)
    )
    return digamma(neighbours) + digamma(len(x)) - digamma(near_x) - digamma(near_y)
