"""Retrieval: how often an image's own caption, or a caption's own image, is among the k nearest of
a gallery.

Only the own partner counts. Captions repeat and leave things out, so several items may fit equally
well: the best possible recall is given if the truth is known. n = pairs of the gallery,
P = code dimensions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.frozen import Frozen
from core.information.bounds import interval
from core.matmul import matmul
from probes.labels.knn import search
from probes.probe import Found, Numbers, Probe
from probes.report import figures
from probes.texts.captions import DIRECTIONS
from probes.texts.encoded import text_pairs, without_captions

RANKS = (1, 5, 10)
BLOCK = 1024  # queries at a time
ROWS, COLUMNS = 6, 6  # of the picture
TIED = 1e-6  # scores that differ by less are equal; float32 rounds cosines by about 1e-7


class RetrievalProbe(Probe):
    """R@1, R@5 and R@10 in both directions."""

    name = "retrieval"
    summary = "R@1, R@5, R@10 of own captions and own images in a gallery of test pairs"
    options = {"gallery": 1000}
    schema = """
        "split", "gallery" (pairs), "image_to_text" | "text_to_image":
            [{"k", "recall", "low", "high", "chance", "best_possible"?}]"""

    def requires(self, frozen: Frozen) -> str:
        return without_captions(frozen)

    def measure(self, frozen: Frozen, **options: int) -> Found:
        gallery = options["gallery"]
        pairs, truth = text_pairs(frozen, "test"), frozen.source("test").text_truth
        image, text = (codes[:gallery] for codes in pairs.codes)
        n = len(image)
        best: dict[str, Callable[[int, int], float]] = {}
        if truth:
            ways = (truth.recall_from_image, truth.recall_from_text)
            best = dict(zip(DIRECTIONS, ways, strict=True))
        numbers: Numbers = {"split": "test", "gallery": n}
        for way, (query, key) in zip(DIRECTIONS, ((image, text), (text, image)), strict=True):
            numbers[way] = []
            for k in RANKS:
                found = interval(recall(query, key, k))
                low, high = max(0.0, found.low), min(1.0, found.high)
                row = {"k": k, "recall": found.mean, "low": low, "high": high}
                row |= {"chance": min(1.0, k / n)}
                row |= {"best_possible": best[way](n, k)} if best else {}
                numbers[way].append(row)
        return Found(numbers, {"codes": (image, text), "place": pairs.place, "texts": pairs.texts})

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {
            f"retrieval/{way}/R@{row['k']}": row["recall"]
            for way in DIRECTIONS
            for row in numbers[way]
        }

    def sentences(self, numbers: Numbers) -> list[str]:
        return [_sentence(way, numbers) for way in DIRECTIONS]

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        return {"retrieval": _gallery(found, frozen, folder / "retrieval.png")}


def recall(query: Tensor, key: Tensor, k: int) -> Tensor:
    """Whether the own key is among the k nearest, float64 [n], for unit codes [n, P]. Ties are
    broken at random: if `nearer` keys have a higher score and `ties` keys (the own one included)
    have the same, the own key is among the first k with probability (k - nearer) / ties.
    """
    parts = []
    for first in range(0, len(query), BLOCK):
        scores = matmul(query[first : first + BLOCK], key)
        own = scores.diagonal(first)[:, None]
        nearer = (scores > own + TIED).sum(1)
        ties = ((scores - own).abs() <= TIED).sum(1)
        parts.append(((k - nearer) / ties).clamp(0, 1).double())
    return torch.cat(parts)


def _sentence(way: str, numbers: Numbers) -> str:
    rows: list[dict[str, Any]] = numbers[way]
    said = []
    for row in rows:
        best = (
            f" (best possible {100 * row['best_possible']:.1f})" if "best_possible" in row else ""
        )
        said.append(f"R@{row['k']} {100 * row['recall']:.1f} %{best}")
    chance = 100 * rows[0]["chance"]
    return (
        f"retrieval, {way.replace('_', ' ')}, in a gallery of {numbers['gallery']:,} pairs:"
        f" {', '.join(said)}; by chance, R@1 is {chance:.1f} %"
    )


def _gallery(found: Found, frozen: Frozen, path: Path) -> Path:
    """Captions, each with its own image and the nearest images of the gallery."""
    image, text = found.arrays["codes"]
    rows = min(ROWS, len(text))
    nearest = search(image, text[:rows], COLUMNS - 1).place
    wanted = torch.cat([torch.arange(rows)[:, None], nearest], 1)
    places = found.arrays["place"][wanted.flatten()]
    pictures = frozen.images("test", places).unflatten(0, wanted.shape)
    size = (1.3 * wanted.shape[1], 1.6 * rows)
    with figures.picture(path, *wanted.shape, figsize=size, squeeze=False) as (figure, axes):
        for row in range(rows):
            for column in range(wanted.shape[1]):
                spot, picture = axes[row, column], pictures[row, column]
                shown = picture.float() / 255 if picture.dtype == torch.uint8 else picture
                spot.imshow(
                    shown.permute(1, 2, 0).expand(-1, -1, 3).clamp(0, 1), interpolation="nearest"
                )
                spot.set(xticks=[], yticks=[])
                own = column and wanted[row, column] == row
                for spine in spot.spines.values():
                    spine.set(visible=bool(own), color=figures.COLOURS[2], linewidth=3)
            words = figures.drawable(found.arrays["texts"][row])
            axes[row, 0].set_title(words[:90], fontsize=9, fontweight="normal")
        axes[rows - 1, 0].set_xlabel("own image", fontsize=8)
        for column in range(1, wanted.shape[1]):
            axes[rows - 1, column].set_xlabel(f"nearest {column}", fontsize=8)
        figure.suptitle("Captions and their nearest images (own image framed)", fontsize=10)
    return path
