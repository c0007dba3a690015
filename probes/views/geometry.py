"""The geometry of features of held-out images: agreement of views, spread, dimensions in use, and
collapse.

n = images of the test split, V = views of each, D = dimensions.
"""

import math

from torch import Tensor

from core.data.source import spread
from core.errors import Unmeasurable
from core.frozen import Frozen
from core.information.geometry import (
    alignment,
    deviations,
    effective_rank,
    lidar,
    spectral_decay,
    uniformity,
)
from core.information.standardise import (
    require_finite_features,
    require_finite_numbers,
    unit_rows,
)
from probes.probe import Found, Numbers, Probe
from probes.views import clid
from probes.views.information import shuffled, two_views_differ

MAX_IMAGES = 25_600  # as for RankMe
LIDAR_IMAGES, LIDAR_VIEWS = 1000, 8
SPACES = ("features", "codes")


class GeometryProbe(Probe):
    """Alignment, uniformity, effective rank (RankMe), LiDAR, alpha-ReQ, the parts of CLID,
    deviations, and what has collapsed.
    """

    name = "geometry"
    summary = "layout of features and codes: alignment, uniformity, RankMe, LiDAR, alpha-ReQ, CLID"
    schema = """
        "split", "images", "augmentation", "lidar_images"?, "lidar_views"?,
        "sentence"? (if something has collapsed),
        "features" | "codes" (of a method that has them):
            {"dimensions", "uniformity", "effective_rank" (RankMe), "deviation", "least_deviation",
             "dead_dimensions" (share), "spectral_decay"? (alpha-ReQ), "cluster_learnability"? |
             "intrinsic_dimension"? (the parts of CLID, of at most 2,000 images; they and
             alpha-ReQ exist if the features have not collapsed), "alignment"?, "lidar"? (if two
             views differ)}"""

    def measure(self, frozen: Frozen, **options: int) -> Found:
        return Found(geometry(frozen))

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {
            f"geometry/{space}/{key}": value
            for space in SPACES
            for key, value in numbers.get(space, {}).items()
        }

    def sentences(self, numbers: Numbers) -> list[str]:
        lines = []
        for space in SPACES:
            if values := numbers.get(space):
                pair = ""
                if "lidar" in values:
                    pair = f", LiDAR {values['lidar']:.1f}; alignment {values['alignment']:.3f}"
                lines.append(
                    f"geometry of {space}: effective rank {values['effective_rank']:.1f} of"
                    f" {values['dimensions']}{pair}, uniformity {values['uniformity']:.2f},"
                    f" deviation {values['deviation']:.2f} of at most 1{_further(values)}"
                )
        return lines + ([numbers["sentence"]] if "sentence" in numbers else [])

    def plain(self, numbers: Numbers) -> list[str]:
        if said := numbers.get("sentence"):
            return [f"Sign of collapse: {said}."]
        space = numbers["features"]
        further = _further(space).removeprefix(", ")
        return [
            f"No sign of collapse: the features spread over {space['effective_rank']:.1f} of their"
            f" {space['dimensions']:.0f} dimensions (effective rank).",
            *([f"Layout of the features: {further}."] if further else []),
        ]


def geometry(frozen: Frozen) -> Numbers:
    """The geometry of features and, if the method has them, of (query) codes on the test split.

    Alignment and LiDAR are absent if two views would be the same image; `sentence` is present if
    something has collapsed.
    """
    pairs = frozen.pairs("test")
    pairs = shuffled(pairs.rows(spread(len(pairs.place), MAX_IMAGES)), frozen.seed)
    spaces = {"features": pairs.features} | ({"codes": pairs.codes} if pairs.codes else {})
    found: Numbers = {"split": "test", "images": len(pairs.place)}
    found["augmentation"] = frozen.augmentation
    differ = not two_views_differ(frozen)
    if differ:
        views = frozen.views("test", LIDAR_VIEWS, LIDAR_IMAGES)
        found |= {"lidar_images": len(views.features), "lidar_views": views.features.shape[1]}
    for name, (first, second) in spaces.items():
        found[name] = layout(first)
        if differ:
            both = (unit_rows(x) for x in (first, second))
            found[name]["alignment"] = alignment(*both).item()
            found[name]["lidar"] = lidar(getattr(views, name))
    sentences = [f"{name} {said}" for name in spaces if (said := collapse(found[name]))]
    return found | ({"sentence": "; ".join(sentences)} if sentences else {})


def layout(x: Tensor) -> dict[str, float]:
    """The geometry of one view of each image, features or codes [n, D] in random order; uniformity
    is that of their directions. Raises `Unmeasurable` if they are not finite.
    """
    require_finite_features(x, "geometry")
    if len(x) < 2:
        raise Unmeasurable(f"geometry: needs 2 images or more, got {len(x)}")
    spread = deviations(x)
    few = x[: clid.IMAGES]
    further = {
        "spectral_decay": spectral_decay(x),
        "cluster_learnability": clid.cluster_learnability(few) if len(few) >= 4 else math.nan,
        "intrinsic_dimension": clid.intrinsic_dimension(few),
    }
    return {
        "dimensions": x.shape[1],
        "uniformity": uniformity(unit_rows(x)),
        "effective_rank": effective_rank(x),
        "deviation": spread.mean,
        "least_deviation": spread.least,
        "dead_dimensions": spread.dead,
    } | {key: value for key, value in further.items() if math.isfinite(value)}


def _further(values: dict[str, float]) -> str:
    """alpha-ReQ and the parts of CLID, if the report has them."""
    names = {
        "spectral_decay": "α-ReQ",
        "cluster_learnability": "cluster learnability",
        "intrinsic_dimension": "intrinsic dimension",
    }
    held = ((key, word) for key, word in names.items() if key in values)
    return "".join(f", {word} {values[key]:.2f}" for key, word in held)


def collapse(space: dict[str, float]) -> str:
    """What has collapsed, in words; "" if nothing has. Raises `Unmeasurable` for NaN."""
    require_finite_numbers(space, "geometry")
    dimensions = int(space["dimensions"])
    rank, dead = space["effective_rank"], space["dead_dimensions"]
    if rank < min(2, (1 + dimensions) / 2) or space["deviation"] < 0.05:
        return (
            f"collapsed: effective rank {rank:.1f} of {dimensions}, deviation"
            f" {space['deviation']:.2f} of at most 1"
        )
    if dead > 0.5:
        return (
            f"partly collapsed: {round(dead * dimensions)} of {dimensions} dimensions do not"
            f" vary, effective rank {rank:.1f}"
        )
    return ""
