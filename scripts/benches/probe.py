"""The InfoNCE sweep over K of the information probe, against a softmax for each K.

(`twobounds probe` prints the seconds of each probe, and the number of images that it encoded.)
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from core.information.bounds import infonce_sweep
from scripts.benches.contest import Contest, within

PAIRS, DIMENSIONS, SCALE = 8192, 128, 10.0


def contests(device: torch.device) -> Iterator[Contest]:
    """Bounds of 8,192 pairs for K = 16 … n - 1, with the influence of each pair."""
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(PAIRS, DIMENSIONS, generator=generator) for _ in range(2))
    query, key = (F.normalize(codes, dim=1).to(device) for codes in (x, x + 0.7 * noise))
    counts = [2**e + 1 for e in range(4, 13)] + [PAIRS]

    def ours() -> list[Tensor]:
        return [bound.influence for bound in infonce_sweep(query, key, SCALE, counts)]

    def peer() -> list[Tensor]:
        """Compute the scores in float64, and for each number of candidates a softmax and the sums
        of its columns.
        """
        after = torch.arange(PAIRS, device=device)
        received = torch.zeros(len(counts), PAIRS, dtype=torch.float64, device=device)
        terms: list[list[Tensor]] = [[] for _ in counts]
        for rows in after.split(512):
            place = (rows[:, None] + after) % PAIRS
            scores = ((query[rows] @ key.T).double() * SCALE).gather(1, place)
            for number, count in enumerate(counts):
                logs = scores[:, :count].log_softmax(1)
                terms[number].append(logs[:, 0] + math.log(count))
                share = logs[:, 1:].exp_()
                received[number].index_add_(0, place[:, 1:count].flatten(), share.flatten())
        return [torch.cat(each) - taken for each, taken in zip(terms, received, strict=True)]

    def same(mine: list[Tensor], other: list[Tensor]) -> str:
        return f"influence within {within(mine, other, 1e-9):.0e}"

    name = f"InfoNCE sweep, {PAIRS:,} pairs, {len(counts)} K"
    yield Contest(name, ours, "a softmax for each K", peer, same, 3.0, rounds=3)
