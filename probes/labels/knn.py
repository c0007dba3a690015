"""kNN probe: weighted votes of the nearest training features by cosine similarity (Wu et al. 2018).

n, m = training and test images, D = feature dimensions, k = neighbours.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import faiss
import torch
from torch import Tensor

from core.errors import Unmeasurable
from core.frozen import Frozen
from core.information.standardise import require_finite_features, unit_rows
from core.matmul import matmul
from core.run.features import Features
from core.run.pictures import Grid, save_grid
from probes.probe import Entry, Found, Numbers, Probe, Value, without_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PRESETS = {"knn200": (200, 0.1), "knn20": (20, 0.07)}  # InstDisc, MoCo and lightly; DINO and DINOv2
NARROW = 1e-3  # mean squared distance of unit features from their mean; below this, see `_centred`
QUERIES, GROUP = 256, 16  # test images in one search; training images in a group


class Neighbours(NamedTuple):
    """The k nearest training images of each test image, best first; ties are in index order."""

    similarity: Tensor  # float32 [m, k]; float64 if all features have nearly one direction
    place: Tensor  # int64 [m, k], indices of training images

    def first(self, k: int) -> "Neighbours":
        return Neighbours(self.similarity[:, :k], self.place[:, :k])


def search(bank: Tensor, query: Tensor, k: int, device: torch.device | None = None) -> Neighbours:
    """Exact search by cosine similarity: with faiss on the CPU (the reference), or with torch on
    `device`. At most n neighbours are found.

    Ties are put in index order, so that every library finds the same neighbours. Two neighbours are
    tied if they are copies of one image, or if their similarities are equal in float32. Raises
    `Unmeasurable` for features that are not finite.
    """
    for name, features in (("training", bank), ("test", query)):
        require_finite_features(features, f"kNN, {name} images")
    k = min(k, len(bank))
    unit = unit_rows(bank)
    mean = unit.mean(0, dtype=torch.float64)
    if 1 - mean.square().sum() < NARROW:
        return _centred(bank, query, mean, k, device)
    return _of_unit_rows(unit.float(), unit_rows(query).float(), k, device)


def _centred(
    bank: Tensor, query: Tensor, mean: Tensor, k: int, device: torch.device | None
) -> Neighbours:
    """The search for features that point in nearly one direction, as after a collapse or with a
    large common mean m. Their cosines differ by less than float32 resolves. For a unit row u of
    `query` and v of `bank`,

        <u, v> = <u, m> + <u - m, v - m> + <m, v - m>

    where the first term is the same for all v and the others are small. The search uses the others.
    """
    unit, asked = (unit_rows(x.double()) for x in (bank, query))
    inside, outside = unit - mean, asked - mean
    inside = torch.cat([inside, (inside @ mean)[:, None]], 1)
    outside = torch.cat([outside, outside.new_ones(len(outside), 1)], 1)
    found = _of_unit_rows(inside.float(), outside.float(), k, device)
    similarity = found.similarity.double() + (asked @ mean).cpu()[:, None]
    return Neighbours(similarity, found.place)


def _of_unit_rows(bank: Tensor, query: Tensor, k: int, device: torch.device | None) -> Neighbours:
    """The k largest inner products, by faiss or on `device`."""
    if device is not None:
        return search_blocks(bank.to(device), query.to(device), k)
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(bank.numpy())
    one_more = min(k + 1, len(bank))  # shows whether the k-th and the next are tied
    found = Neighbours(*map(torch.from_numpy, index.search(query.numpy(), one_more)))
    return _in_order(bank, query, found, k)


def search_blocks(bank: Tensor, query: Tensor, k: int) -> Neighbours:
    """The k largest inner products of each query with the bank [n, D], computed on the device of
    the bank; results on the CPU, in the order of `search`.

    Selection costs more than multiplication, so most of a row is never sorted. Columns are put into
    groups. The k groups with the largest maxima contain the k largest values, because no value of
    another group exceeds these k maxima.
    """
    groups, one_more = len(bank) // GROUP, min(k + 1, len(bank))
    rest = torch.arange(groups * GROUP, len(bank), device=bank.device)
    found: list[tuple[Tensor, Tensor]] = []
    for block in query.split(QUERIES):
        scores = matmul(block, bank)
        if one_more > groups // 4:  # the chosen groups would be most of the row
            best = scores.topk(one_more)
            found.append((best.values, best.indices))
            continue
        # column c belongs to the group c mod groups
        grouped = scores[:, : groups * GROUP].unflatten(1, (GROUP, groups))
        group = grouped.amax(1).topk(one_more, sorted=False).indices
        first = groups * torch.arange(GROUP, device=group.device)[:, None]
        column = (group[:, None] + first).flatten(1)
        column = torch.cat([column, rest.expand(len(block), -1)], 1)
        best = scores.gather(1, column).topk(one_more)
        found.append((best.values, column.gather(1, best.indices)))
    joined = Neighbours(*(torch.cat([part[i] for part in found]) for i in (0, 1)))
    return _in_order(bank, query, joined, k)


def _in_order(bank: Tensor, query: Tensor, found: Neighbours, k: int) -> Neighbours:
    """The first k of k + 1 neighbours (or of all n), with ties in index order; on the CPU.

    A whole row is searched again only if the k-th and the next neighbour are tied, or if a
    neighbour has copies: in some libraries, the similarities of copies differ by rounding.
    """
    similarity, place = found
    equal = (similarity[:, 1:] == similarity[:, :-1]).any(1).nonzero()[:, 0]
    by_index = place[equal].argsort(1)
    values, order = similarity[equal].gather(1, by_index).sort(dim=1, descending=True, stable=True)
    similarity[equal], place[equal] = values, place[equal].gather(1, by_index).gather(1, order)
    original = _originals(bank)
    again = similarity.new_zeros(len(similarity), dtype=torch.bool)
    if similarity.shape[1] > k:
        again |= similarity[:, k - 1] == similarity[:, k]
    if original is not None:
        copied = torch.bincount(original, minlength=len(bank))[original] > 1
        again |= copied[place].any(1)
    similarity, place = similarity[:, :k].contiguous(), place[:, :k].contiguous()
    for rows in again.nonzero()[:, 0].split(QUERIES):
        scores = matmul(query[rows], bank)
        if original is not None:
            scores = scores[:, original]
        least = scores.topk(k).values[:, -1:]
        above, at = scores > least, scores == least
        kept = above | (at & (at.cumsum(1) <= k - above.sum(1, keepdim=True)))
        columns = kept.nonzero()[:, 1].view(-1, k)  # ascending
        values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
        similarity[rows] = values
        place[rows] = columns.gather(1, order)
    return Neighbours(similarity.cpu(), place.cpu())


def _originals(bank: Tensor) -> Tensor | None:
    """For each row of the bank [n, D], the first row that equals it; None if all rows differ."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(2**31, bank.shape[1:], generator=generator, dtype=torch.int32)
    # a hash: a weighted sum modulo 2^32; adding 0 turns -0 into 0
    mixed = ((bank + 0.0).view(torch.int32) * weight.to(bank.device)).sum(1, dtype=torch.int32)
    sums = mixed.sort().values
    if not (sums[1:] == sums[:-1]).any():
        return None
    _, group, counts = mixed.unique(return_inverse=True, return_counts=True)
    index = torch.arange(len(bank), device=bank.device)
    first = torch.full_like(counts, len(bank)).scatter_reduce_(0, group, index, "amin")
    original = first[group]
    others = index[original != index]
    others = others[(bank[others] != bank[original[others]]).any(1)]
    if len(others):  # the same hash, but other features
        among = _originals(bank[others])
        original[others] = others if among is None else others[among]
    return original


def vote(similarity: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Predicted classes [m]: neighbours vote for their labels [m, k] with weight exp(similarity /
    T).

    Ties go to the first class. Raises `ValueError` for a temperature that is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: must be above 0, got {temperature}")
    # a common factor does not change the winner
    weight = torch.exp((similarity - similarity[:, :1]).double() / temperature)
    votes = torch.zeros(len(labels), classes, dtype=torch.float64)
    return votes.scatter_add_(1, labels, weight).argmax(1)


def knn(
    train: Features,
    test: Features,
    k: int = 200,
    temperature: float = 0.1,
    found: Neighbours | None = None,
) -> dict[str, float]:
    """Top-1 accuracy of every factor as "top1/FACTOR", and their mean as "top1".

    `found`: at least min(k, n) neighbours of an earlier search.
    """
    k = min(k, len(train.x))
    similarity, neighbour = (found or search(train.x, test.x, k)).first(k)
    if not similarity.isfinite().all() or neighbour.min() < 0:
        raise Unmeasurable("kNN: an image has no neighbours: its features are not finite")
    scores = {}
    for column, (factor, classes) in enumerate(train.factors):
        predicted = vote(similarity, train.y[:, column][neighbour], classes, temperature)
        scores[f"top1/{factor}"] = (predicted == test.y[:, column]).double().mean().item()
    mean = sum(scores.values()) / len(scores)
    return {"top1": mean, **scores, "k": float(k), "temperature": temperature}


def class_size(train: Features) -> float:
    """The mean number of training images of a class, n / Y, for the label column with the most
    classes. Y counts the classes that have training images.
    """
    classes = max((len(column.unique()) for column in train.y.T), default=1)
    return len(train.x) / max(1, classes)


def said_of_large_k(numbers: dict[str, float]) -> str:
    """A remark if k is larger than `class_size`, else "". Then some class has fewer than k training
    images. So even if all images of that class are nearer than all others, others join its vote,
    and the accuracy depends on the class sizes and on T, not only on the features.
    """
    k, size = numbers["k"], numbers.get("per_class", math.inf)
    if k <= size:
        return ""
    return (
        f"kNN, k = {k:.0f}: a class has {size:,.0f} training images on average, so images of other"
        " classes must join its vote; probe with more training images, or read a smaller k"
    )


def online_knn(train: Features, test: Features) -> dict[str, float]:
    """The kNN accuracy that is logged while a method trains, as "knn"."""
    return {"knn": knn(train, test)["top1"]}


def _captions(frozen: Frozen, found: Neighbours, rows: Tensor, nearest: Tensor) -> list[list[str]]:
    """The texts of the picture: the label below a test image, the similarity and the label below a
    neighbour. With several label columns, labels are numbers.
    """
    classes = frozen.source("test").identity.classes
    test, train = (frozen.features(split) for split in ("test", "trainval"))

    def label(y: Tensor) -> str:
        named = len(y) == 1 and len(classes) > int(y[0])
        return classes[int(y[0])][:12] if named else ",".join(map(str, y.tolist()))

    return [
        [label(test.y[row])]
        + [
            f"{similarity:.2f}, {label(train.y[place])}"
            for similarity, place in zip(
                found.similarity[row, : len(places)].tolist(), places, strict=True
            )
        ]
        for row, places in zip(rows, nearest, strict=True)
    ]


class KNNProbe(Probe):
    """Votes of the nearest training images, with the settings that papers use."""

    name = "knn"
    summary = "exact kNN, votes with weights exp(cosine/T): k = 200, T = 0.1; k = 20, T = 0.07"
    columns = ("kNN %",)
    claims = (
        "Share of test images whose label wins the vote of the 200 nearest training images, with"
        " weights exp(cosine / 0.1). It is a mean over the label columns.",
    )
    panel = "Labels: linear (solid), kNN (pale)"
    schema = """
        "knn200" | "knn20": {"top1", "top1/FACTOR", "k", "temperature",
            "per_class" (training images of a class, `class_size`)}"""

    def requires(self, frozen: Frozen) -> str:
        return without_labels(frozen)

    def measure(self, frozen: Frozen, **options: int) -> Found:
        train, test = (frozen.features(split) for split in ("trainval", "test"))
        most = max(k for k, _ in PRESETS.values())
        device = frozen.device if frozen.device.type == "cuda" else None
        nearest = search(train.x, test.x, most, device)
        size = {"per_class": class_size(train)}
        numbers = {name: knn(train, test, *v, nearest) | size for name, v in PRESETS.items()}
        return Found(numbers, {"nearest": nearest})

    def cells(self, numbers: Numbers) -> list[str]:
        return [f"{100 * numbers['knn200']['top1']:.1f}"]

    def values(self, numbers: Numbers) -> list[Value | str]:
        return [Value(100 * numbers["knn200"]["top1"], digits=1)]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {preset: values["top1"] for preset, values in numbers.items()}

    def sentences(self, numbers: Numbers) -> list[str]:
        found = (f"{100 * v['top1']:.1f} % with k = {v['k']:.0f}" for v in numbers.values())
        lines = [f"kNN: {', '.join(found)}, top-1 on test, mean over label columns"]
        return lines + [line for line in map(said_of_large_k, numbers.values()) if line]

    def plain(self, numbers: Numbers) -> list[str]:
        found = f"{100 * numbers['knn200']['top1']:.1f} %"
        return [f"A vote of the 200 nearest training images finds {found} of the labels (kNN)."]

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        """A row for each of eight test images: itself, then its nearest training images."""
        if not frozen.has_images:
            return {}
        n = len(found.arrays["nearest"].place)
        rows = torch.arange(min(8, n)) * n // min(8, n)
        nearest = found.arrays["nearest"].first(8).place[rows]
        test, train = frozen.images("test", rows), frozen.images("trainval", nearest.flatten())
        pictures = [
            torch.cat([own[None], others])
            for own, others in zip(test, train.split(nearest.shape[1]), strict=True)
        ]
        grid = Grid(
            pictures,
            columns=["test image", *(f"{rank + 1}." for rank in range(nearest.shape[1]))],
            captions=_captions(frozen, found.arrays["nearest"], rows, nearest),
            title="Test images and their nearest training images: cosine, "
            + ", ".join(name for name, _ in frozen.features("test").factors),
        )
        return {"neighbours": save_grid(folder / "neighbours.png", grid)}

    def draw(self, axes: "Axes", entries: list[Entry]) -> None:
        from probes.report import figures  # matplotlib, which training does not need

        figures.draw_accuracies(axes, entries, lambda n: n["knn200"]["top1"], solid=False)
