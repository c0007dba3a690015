"""kNN search and vote: our blocks in torch against lightly's knn_predict, and against faiss."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from lightly.utils.benchmarking import knn_predict
from torch import Tensor

from core.run.features import Features
from probes.labels.knn import Neighbours, search, vote
from scripts.benches.contest import Contest

CLASSES, DIMENSIONS, NEIGHBOURS, TEMPERATURE = 10, 512, 200, 0.1


def contests(device: torch.device) -> Iterator[Contest]:
    """50,000 training and 10,000 test images, D = 512, k = 200."""
    train, test = clouds(50_000, 0), clouds(10_000, 1)
    labels, bank = train.y[:, 0], F.normalize(train.x, dim=1).to(device)
    query, targets = F.normalize(test.x, dim=1).to(device), train.y[:, 0].to(device)

    def ours() -> Tensor:
        return predict(search(train.x, test.x, NEIGHBOURS, device))

    def predict(found: Neighbours) -> Tensor:
        return vote(found.similarity, labels[found.place], CLASSES, TEMPERATURE)

    def by_faiss() -> Tensor:
        return predict(search(train.x, test.x, NEIGHBOURS))

    def lightly() -> Tensor:
        parts = [
            knn_predict(block, bank.T, targets, CLASSES, NEIGHBOURS, TEMPERATURE)[:, 0]
            for block in query.split(256)
        ]
        return torch.cat(parts).cpu()

    def same(mine: Tensor, peer: Tensor) -> str:
        different = int((mine != peer).sum())
        said = f"{different} of {len(test.x):,} predictions differ"
        assert different <= 2, said  # votes may be equal up to rounding
        return f"{len(test.x) - different:,} of {len(test.x):,} predictions equal"

    name = f"kNN, {len(train.x):,} x {len(test.x):,}, D = {DIMENSIONS}, k = {NEIGHBOURS}"
    yield Contest(name, ours, "lightly knn_predict, blocks of 256", lightly, same, 1.15)
    if device.type == "cpu":
        yield Contest(name, ours, "faiss IndexFlatIP", by_faiss, same, 2.5)


def clouds(n: int, seed: int) -> Features:
    """Overlapping classes, so that not all votes are unanimous."""
    centres = torch.randn(CLASSES, DIMENSIONS, generator=torch.Generator().manual_seed(9)) * 0.15
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (n,), generator=generator)
    x = centres[y] + torch.randn(n, DIMENSIONS, generator=generator)
    return Features(x, y[:, None], (("class", CLASSES),))
