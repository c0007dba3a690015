"""A map of the features, and the scores of candidates, from what probes keep beside a checkpoint.

Nothing is encoded for the page: only arrays that this user's probes wrote for the same weights,
data and seed are read (`core.run.rows`).

n = images of the map, A = anchors, K = negatives.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.data.source import spread
from core.errors import Unmeasurable, UserError, legible
from core.frozen import Frozen
from core.method import PairCritic
from core.run.features import Features
from core.run.rows import kept
from probes.probe import Chart
from probes.report.groups import Group
from probes.report.page import vega
from probes.report.page.gallery import webp
from probes.report.schema import Report
from probes.report.store import MALFORMED
from probes.views.information import shuffled

IMAGES, SIDE, ACROSS = 400, 28, 20  # of a map: images, pixels of a thumbnail, thumbnails in a row
MOST = 6  # checkpoints with a map and scores
# colours of classes (Tol's muted ones); some are also colours of later checkpoints
CLASSES = ("#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255")
BRIGHT = ("#8f86e0", "#88ccee", "#44aa99", "#4fb36a", "#b5b54a", "#ddcc77", "#cc6677", "#c8568f")
ANCHORS, NEGATIVES = 10, 512
FIRST_AXES, PERPLEXITY, ROUNDS = 30, 20, 300  # of the t-SNE


@dataclass
class Explored:
    """What was found: figures, scores, thumbnails and reasons."""

    charts: list[Chart] = field(default_factory=list)
    places: list[int] = field(default_factory=list)  # the group of each figure
    sheets: list[str] = field(default_factory=list)  # a data URL for each figure
    scores: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


class Kept(Frozen):
    """A frozen encoder that reads what was kept, and never encodes a split."""

    def _read(self, what: str, split: str, source: Any, sampler: Any, encode: Any,
              ranks: dict[str, int], views: int = 1) -> dict[str, Tensor]:  # fmt: skip
        places = torch.cat([index for index, _ in sampler])
        path, key = self._kept_at(what, split, places, views)
        shapes = {name: (len(places), *[None] * (rank - 1)) for name, rank in ranks.items()}
        found = kept(path, key, shapes) if path is not None else None
        if found is None:
            raise Unmeasurable("no features are kept beside its checkpoint")
        return dict(found)


def explored(groups: Sequence[Group]) -> Explored:
    """The map and the scores of the first run of each group, or why there are none."""
    made = Explored()
    why: dict[str, list[str]] = {}
    for place, group in enumerate(groups[:MOST]):
        try:
            _add(made, place, group.label, group.reports[0])
        except (Unmeasurable, UserError, OSError, *MALFORMED) as error:
            why.setdefault(legible(str(error), 200), []).append(group.label)
    made.missing = [f"{', '.join(labels)}: {reason}" for reason, labels in why.items()]
    if len(groups) > MOST:
        made.missing.append(f"only the first {MOST} checkpoints are shown here")
    return made


def _add(made: Explored, place: int, label: str, report: Report) -> None:
    checkpoint = Path(report["checkpoint"])
    if not any((checkpoint.parent / "features").glob("features-test-*.safetensors")):
        raise Unmeasurable("no features are kept beside its checkpoint")
    frozen = Kept.load(checkpoint, seed=report["seed"])
    if frozen.weights != report["digest"]:
        raise Unmeasurable("the checkpoint is not the one that was measured")
    features = frozen.features("test")
    places = spread(len(features.x), IMAGES)
    made.charts.append(_map(place, label, features, places))
    made.places.append(place)
    made.sheets.append(_sheet(frozen.images("test", places)))
    if isinstance(frozen.method, PairCritic):
        made.scores.append({"run": place} | _scores(frozen))


def _map(place: int, label: str, features: Features, places: Tensor) -> Chart:
    """The features of n images in the plane, coloured by a factor."""
    at = flat(features.x[places].numpy())
    factors = [(i, name) for i, (name, values) in enumerate(features.factors) if values > 1]
    names = tuple(legible(str(name), 40) for _, name in factors)
    labels = features.y[places][:, [i for i, _ in factors]].tolist()
    rows = [
        {"map": place, "image": number, "x": round(float(x), 2), "y": round(float(y), 2)}
        | {"labels": labels[number]}
        for number, (x, y) in enumerate(at)
    ]
    legend = {"title": None, "orient": "bottom", "direction": "horizontal", "columns": 8}
    legend |= {"labelColor": "var(--quiet)", "labelFontSize": 12, "symbolSize": 70}
    axis = {"axis": None, "scale": {"zero": False}, "type": "quantitative"}
    spec = vega.layered(
        rows,
        [
            {
                "transform": [
                    {"calculate": "datum.labels[indexof(names, choice)]", "as": "value"},
                    {"calculate": "choice", "as": "factor"},
                ],
                "mark": {"type": "point", "filled": True, "size": 36, "opacity": 0.85},
                "encoding": {
                    "x": {"field": "x"} | axis,
                    "y": {"field": "y"} | axis,
                    "color": {"field": "value", "type": "nominal", "legend": legend}
                    | {"scale": {"range": [f"var(--k{number})" for number in range(len(CLASSES))]}},
                    "tooltip": {"field": "image", "type": "quantitative"},
                },
            }
        ],
        [
            {"name": "names", "value": list(names)},
            {"name": "choice", "value": names[0] if names else ""},
        ],
    )
    return Chart(label, "", spec, names, "coloured by")


def flat(x: Any, seed: int = 0) -> Any:
    """Features [n, D] in the plane, [n, 2]: t-SNE of their first principal axes."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(x) < 5 or not np.isfinite(x).all() or not (x.std(0) > 0).any():
        raise Unmeasurable("the features can not be shown in a plane")
    axes = min(FIRST_AXES, *x.shape)
    reduced = PCA(axes, random_state=seed).fit_transform(x)
    near = min(PERPLEXITY, (len(x) - 1) / 3)
    start = "pca" if axes > 1 else "random"
    return TSNE(
        perplexity=near, init=start, max_iter=ROUNDS, random_state=seed, n_jobs=1
    ).fit_transform(reduced)


def _sheet(images: Tensor) -> str:
    """Thumbnails of images [n, C, H, W] side by side in one picture, as a data URL."""
    x = images.float()
    x = x / 255 if images.dtype == torch.uint8 else x
    low, high = x.min(), x.max()
    if low < 0 or high > 1:
        x = (x - low) / (high - low).clamp(min=1e-9)
    x = torch.nn.functional.interpolate(x, (SIDE, SIDE), mode="area")
    x = x[:, :3] if x.shape[1] >= 3 else x[:, :1].expand(-1, 3, -1, -1)
    rows = -(-len(x) // ACROSS)
    sheet = torch.zeros(rows * ACROSS, 3, SIDE, SIDE)
    sheet[: len(x)] = x
    tiled = sheet.view(rows, ACROSS, 3, SIDE, SIDE).permute(0, 3, 1, 4, 2)
    array = (tiled.reshape(rows * SIDE, ACROSS * SIDE, 3) * 255).round().byte().numpy()
    return "data:image/webp;base64," + base64.b64encode(webp(Image.fromarray(array), 70)).decode()


def _scores(frozen: Frozen) -> dict[str, Any]:
    """Scores s / T of A anchors: of the true second view, then of K negatives, [A, K + 1]."""
    pairs = shuffled(frozen.pairs("test"), frozen.seed)
    assert isinstance(frozen.method, PairCritic)
    if pairs.codes is None:
        raise Unmeasurable("its method has no codes")
    query, key = (x[: NEGATIVES + ANCHORS] for x in pairs.codes)
    anchors = min(ANCHORS, len(query) // 2)
    scores = query[:anchors] @ key.T / frozen.method.temperature
    own = scores.diagonal()[:, None]
    others = scores[:, anchors:]
    table = torch.cat([own, others], 1)
    return {
        "temperature": float(frozen.method.temperature),
        "table": [[round(score, 3) for score in row] for row in table.tolist()],
    }
