"""Measurements of frozen features, codes and checkpoints: labels, information, geometry, rate.

>>> import numpy as np
>>> from probes import estimate, infonce_bound, knn, linear
>>> rng = np.random.default_rng(0)
>>> y = rng.integers(0, 3, 300)
>>> x = rng.normal(size=(300, 8)) + 5 * np.eye(8)[y]
>>> knn(x[:200], y[:200], x[200:], y[200:], k=20)["top1"]
1.0
>>> found = infonce_bound(x, x + 0.1 * rng.normal(size=x.shape))
>>> found["side"], found["unit"]
('lower bound', 'nats')
"""

from typing import TYPE_CHECKING

from core.lazy import exports

if TYPE_CHECKING:
    from probes.api import infonce_bound as infonce_bound
    from probes.api import knn as knn
    from probes.api import linear as linear
    from probes.samples.estimate import estimate as estimate

__getattr__, __dir__ = exports(
    __name__,
    {
        "linear": "probes.api",
        "knn": "probes.api",
        "infonce_bound": "probes.api",
        "estimate": "probes.samples.estimate",
    },
)
