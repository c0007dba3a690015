"""kNN probe: weighted votes of the nearest training features by cosine similarity (Wu et al. 2018).

n, m = training and test images, D = feature dimensions, k = neighbours.
"""

from core.features import Features

import faiss
import torch
import torch.nn.functional as F
from torch import Tensor

PRESETS = {"knn200": (200, 0.1), "knn20": (20, 0.07)}  # InstDisc, MoCo and lightly; DINO and DINOv2


def search(bank: Tensor, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Exact inner-product search of L2-normalised features by faiss: similarities and indices [m, k], best first."""
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(F.normalize(bank, dim=1).numpy())
    similarity, neighbour = index.search(F.normalize(query, dim=1).numpy(), k)
    return torch.from_numpy(similarity), torch.from_numpy(neighbour)


def vote(similarity: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Predicted classes [m]: each neighbour votes for its label [m, k] with weight exp(similarity / T)."""
    weight = torch.exp((similarity - similarity[:, :1]).double() / temperature)  # a common factor changes no vote
    votes = torch.zeros(len(labels), classes, dtype=torch.float64)
    return votes.scatter_add_(1, labels, weight).argmax(1)


def knn(train: Features, test: Features, k: int = 200, temperature: float = 0.1) -> dict[str, float]:
    """Top-1 accuracy of every factor as "top1/FACTOR", and their mean as "top1". k is at most n."""
    k = min(k, len(train.x))
    similarity, neighbour = search(train.x, test.x, k)
    scores = {}
    for column, (factor, classes) in enumerate(train.factors):
        predicted = vote(similarity, train.y[:, column][neighbour], classes, temperature)
        scores[f"top1/{factor}"] = (predicted == test.y[:, column]).double().mean().item()
    return {"top1": sum(scores.values()) / len(scores), **scores, "k": float(k), "temperature": temperature}
