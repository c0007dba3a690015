"""kNN probe: weighted votes of the nearest training features by cosine similarity (Wu et al. 2018).

n, m = training and test images, D = feature dimensions, k = neighbours.
"""

from core.frozen import Frozen
from core.matmul import matmul
from core.run.features import Features
from core.run.pictures import save_grid

from pathlib import Path
from typing import NamedTuple

import faiss
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from torch import Tensor

from probes.probe import Entry, Found, Numbers, Probe
from probes.report import figures

PRESETS = {"knn200": (200, 0.1), "knn20": (20, 0.07)}  # InstDisc, MoCo and lightly; DINO and DINOv2
QUERIES, GROUP = (
    256,
    16,
)  # test images searched at a time, and training images that stand behind one maximum


class Neighbours(NamedTuple):
    """The k nearest training images of each test image, best first."""

    similarity: Tensor  # float32 [m, k]
    place: Tensor  # int64 [m, k], indices of training images

    def first(self, k: int) -> "Neighbours":
        return Neighbours(self.similarity[:, :k], self.place[:, :k])


def search(bank: Tensor, query: Tensor, k: int, device: torch.device | None = None) -> Neighbours:
    """Exact search by cosine similarity: faiss on the CPU, the reference, or in blocks by torch on
    `device`. k is at most n.
    """
    k = min(k, len(bank))
    bank, query = F.normalize(bank, dim=1), F.normalize(query, dim=1)
    if device is not None:
        return search_blocks(bank.to(device), query.to(device), k)
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(bank.numpy())
    return Neighbours(*map(torch.from_numpy, index.search(query.numpy(), k)))


def search_blocks(bank: Tensor, query: Tensor, k: int) -> Neighbours:
    """The k largest inner products of each query with the bank [n, D], where the bank is; results
    on the CPU.

    Selecting costs more than multiplying, so most of a row is never sorted: the k groups of columns
    with the largest maxima hold the k largest values, as each of those maxima is one of k values
    that no other group can pass.
    """
    groups = len(bank) // GROUP
    rest = torch.arange(groups * GROUP, len(bank), device=bank.device)
    found: list[tuple[Tensor, Tensor]] = []
    for block in query.split(QUERIES):
        scores = matmul(block, bank)
        if k > groups // 4:  # the groups would be most of the row
            values, place = scores.topk(k)
            found.append((values, place))
            continue
        grouped = scores[:, : groups * GROUP].unflatten(
            1, (GROUP, groups)
        )  # column c is in group c mod groups
        group = grouped.amax(1).topk(k, sorted=False).indices
        column = (
            group[:, None] + groups * torch.arange(GROUP, device=group.device)[:, None]
        ).flatten(1)
        column = torch.cat([column, rest.expand(len(block), -1)], 1)
        best = scores.gather(1, column).topk(k)
        found.append((best.values, column.gather(1, best.indices)))
    return Neighbours(*(torch.cat([part[i] for part in found]).cpu() for i in (0, 1)))


def vote(similarity: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Predicted classes [m]: each neighbour votes for its label [m, k] with weight exp(similarity /
    T).
    """
    weight = torch.exp(
        (similarity - similarity[:, :1]).double() / temperature
    )  # a common factor changes no vote
    votes = torch.zeros(len(labels), classes, dtype=torch.float64)
    return votes.scatter_add_(1, labels, weight).argmax(1)


def knn(
    train: Features,
    test: Features,
    k: int = 200,
    temperature: float = 0.1,
    found: Neighbours | None = None,
) -> dict[str, float]:
    """Top-1 accuracy of every factor as "top1/FACTOR", and their mean as "top1". k is at most n.

    `found` are at least k neighbours of a search that is already done.
    """
    k = min(k, len(train.x))
    similarity, neighbour = (found or search(train.x, test.x, k)).first(k)
    scores = {}
    for column, (factor, classes) in enumerate(train.factors):
        predicted = vote(similarity, train.y[:, column][neighbour], classes, temperature)
        scores[f"top1/{factor}"] = (predicted == test.y[:, column]).double().mean().item()
    return {
        "top1": sum(scores.values()) / len(scores),
        **scores,
        "k": float(k),
        "temperature": temperature,
    }


def online_knn(train: Features, test: Features) -> dict[str, float]:
    """The kNN accuracy that is watched while a method trains, as "knn"."""
    return {"knn": knn(train, test)["top1"]}


class KNNProbe(Probe):
    """Votes of the nearest training images, with the settings that papers use."""

    name = "knn"
    summary = "exact faiss search, weights exp(s/T): k = 200, T = 0.1 and k = 20, T = 0.07"
    columns = ("kNN %",)
    panel = "Labels: linear (solid), kNN (pale)"
    schema = """
        "knn200" | "knn20": {"top1", "top1/FACTOR", "k", "temperature"}"""

    def measure(self, frozen: Frozen, **options: int) -> Found:
        train, test = (frozen.features(split) for split in ("trainval", "test"))
        most = max(k for k, _ in PRESETS.values())
        device = frozen.device if frozen.device.type == "cuda" else None
        nearest = search(train.x, test.x, most, device)
        numbers = {name: knn(train, test, *values, nearest) for name, values in PRESETS.items()}
        return Found(numbers, {"nearest": nearest})

    def cells(self, numbers: Numbers) -> list[str]:
        return [f"{100 * numbers['knn200']['top1']:.1f}"]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {preset: values["top1"] for preset, values in numbers.items()}

    def sentences(self, numbers: Numbers) -> list[str]:
        found = (f"{100 * v['top1']:.1f} % with k = {v['k']:.0f}" for v in numbers.values())
        return [f"kNN: {', '.join(found)}, top-1 on test, mean over label columns"]

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        """A row for each of eight test images: itself, then its nearest training images."""
        n = len(found.arrays["nearest"].place)
        rows = torch.arange(min(8, n)) * n // min(8, n)
        nearest = found.arrays["nearest"].first(8).place[rows]
        test, train = frozen.images("test", rows), frozen.images("trainval", nearest.flatten())
        pictures = [
            torch.cat([own[None], others])
            for own, others in zip(test, train.split(nearest.shape[1]), strict=True)
        ]
        return {"neighbours": save_grid(folder / "neighbours.png", pictures)}

    def draw(self, axes: Axes, entries: list[Entry]) -> None:
        figures.draw_accuracies(axes, entries, lambda n: n["knn200"]["top1"], solid=False)
