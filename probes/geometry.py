"""How a frozen encoder lays out held-out images: agreement of views, spread of images, dimensions
in use, and whether they have collapsed.

n = images of the test split, V = views of each, D = dimensions.
"""

from core.data.datasets import open_source
from core.data.source import Source, eval_sampler
from core.data.sprites import Sprites
from core.information.geometry import alignment, deviations, effective_rank, lidar, uniformity
from core.information.standardise import require_finite_features, require_finite_numbers
from core.method import Method, PairCritic
from core.run.config import RunConfig

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from probes.information import encode_pairs

MOST = 25_600  # images, as RankMe takes them
LIDAR_IMAGES, LIDAR_VIEWS = 1000, 8


def geometry(
    method: Method, run: RunConfig, seed: int = 0, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """The geometry of the features that probes read and, of a method with codes, of its (query)
    codes: numbers on the test split.

    Alignment and LiDAR are absent where two views would be the same image. `sentence` is there
    where something has collapsed.
    """
    test = open_source(run.data, "test", run.seed)
    native = isinstance(method, PairCritic)
    pairs = encode_pairs(method, test, seed, device, native, MOST)
    spaces: dict[str, tuple[tuple[Tensor, Tensor], Callable[[Tensor], Tensor]]] = {
        "features": (pairs.features, method.embed)
    }
    if isinstance(method, PairCritic):
        critic = method
        spaces["codes"] = pairs.codes, lambda view: critic.codes(view, view)[0]
    found: dict[str, Any] = {"split": "test", "images": len(pairs.features[0])}
    found["augmentation"] = "fresh rendering" if isinstance(test, Sprites) else run.data.augment
    if run.data.views_differ:
        found |= {"lidar_images": min(LIDAR_IMAGES, len(test)), "lidar_views": LIDAR_VIEWS}
    for name, (views, encode) in spaces.items():
        found[name] = layout(views[0])
        if run.data.views_differ:
            first, second = (F.normalize(x, dim=1) for x in views)
            found[name] |= {
                "alignment": alignment(first, second).item(),
                "lidar": lidar(read_views(encode, test, seed, device)),
            }
    sentences = [f"{name} {said}" for name in spaces if (said := collapse(found[name]))]
    return found | ({"sentence": "; ".join(sentences)} if sentences else {})


def layout(x: Tensor) -> dict[str, float]:
    """What can be said of one view of each image, features or codes [n, D]; uniformity is that of
    their directions. Raises `Unmeasurable` where they are not finite.
    """
    require_finite_features(x, "geometry")
    spread = deviations(x)
    return {
        "dimensions": x.shape[1],
        "uniformity": uniformity(F.normalize(x, dim=1)),
        "effective_rank": effective_rank(x),
        "deviation": spread.mean,
        "least_deviation": spread.least,
        "dead_dimensions": spread.dead,
    }


def collapse(space: dict[str, float]) -> str:
    """What has collapsed, as words for a person; empty where nothing has. Raises `Unmeasurable` for
    a NaN, which is neither.
    """
    require_finite_numbers(space, "geometry")
    dimensions, rank, dead = (
        int(space["dimensions"]),
        space["effective_rank"],
        space["dead_dimensions"],
    )
    if rank < min(2, (1 + dimensions) / 2) or space["deviation"] < 0.05:
        return f"collapsed: effective rank {rank:.1f} of {dimensions}, deviation {space['deviation']:.2f} of 1"
    if dead > 0.5:
        return f"partly collapsed: {round(dead * dimensions)} of {dimensions} dimensions do not vary, effective rank {rank:.1f}"
    return ""


@torch.no_grad()
def read_views(
    encode: Callable[[Tensor], Tensor], source: Source, seed: int, device: torch.device | str
) -> Tensor:
    """What `encode` makes of several fresh views of some images spread over the split, [n, V,
    D].
    """
    order = eval_sampler(len(source), seed, device=device, purpose="lidar", most=LIDAR_IMAGES)
    batches = source.batches(order, LIDAR_VIEWS)
    return torch.cat(
        [torch.stack([encode(view).float().cpu() for view in batch.views], 1) for batch in batches]
    )
