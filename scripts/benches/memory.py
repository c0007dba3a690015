"""The length of the queue: MoCo's loss and gradient for K = 2^14 to 2^20, against repeated calls
with K = 2^14 that do the same work.

No other library takes part, because a library that holds all scores in memory needs gigabytes. A
ratio of 1 means that the time is linear in K. On a CPU the memory should not grow with K. On a GPU
up to 2^26 scores are computed in one piece, so the memory of the scores is at most 256 MiB.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from core.information.losses import queue_loss
from scripts.benches.contest import Contest, within

TEMPERATURE, DIMENSIONS, QUERIES, SHORT = 0.1, 128, 512, 2**14


def contests(device: torch.device) -> Iterator[Contest]:
    for exponent in (14, 16, 18, 20):
        yield contest(exponent, device)


def contest(exponent: int, device: torch.device) -> Contest:
    generator = torch.Generator().manual_seed(exponent)
    keys = F.normalize(torch.randn(2**exponent, DIMENSIONS, generator=generator), dim=1).to(device)
    query, key = (
        F.normalize(torch.randn(QUERIES, DIMENSIONS, generator=generator), dim=1).to(device)
        for _ in range(2)
    )
    query.requires_grad_()

    def run(negatives: torch.Tensor) -> tuple[torch.Tensor, ...]:
        loss = queue_loss(query, key, negatives, TEMPERATURE)
        return (loss, *torch.autograd.grad(loss, query))

    def repeated() -> None:
        for part in keys.split(SHORT):
            run(part)

    def same(*_: object) -> str:
        """Compare eight queries with float64."""
        some = query[:8].detach().double().requires_grad_()
        own, wide = key[:8].double(), keys.double()
        scores = torch.cat([(some * own).sum(1, keepdim=True), some @ wide.T], 1) / TEMPERATURE
        exact = (scores.logsumexp(1) - scores[:, 0]).mean()
        loss = queue_loss(query[:8], key[:8], keys, TEMPERATURE)
        mine = loss, torch.autograd.grad(loss, query)[0][:8]
        wanted = exact, torch.autograd.grad(exact, some)[0]
        return f"as float64 within {within(mine, wanted):.0e}"

    name, other = f"K = 2^{exponent}", f"K = 2^14, {len(keys) // SHORT} times"
    return Contest(name, lambda: run(keys), other, repeated, same, 0.9, memory=True)
