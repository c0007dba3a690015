"""The queue's length alone: MoCo's loss and gradient from K = 2^14 to 2^20, each beside K = 2^14 as
many times as makes the same work.

No peer here: one that holds all scores needs gigabytes. A ratio of 1 says that the time is linear
in K; the extra memory should not grow.
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
        """Against eight queries in float64."""
        some, own, wide = (
            query[:8].detach().double().requires_grad_(),
            key[:8].double(),
            keys.double(),
        )
        scores = torch.cat([(some * own).sum(1, keepdim=True), some @ wide.T], 1) / TEMPERATURE
        exact = (scores.logsumexp(1) - scores[:, 0]).mean()
        loss = queue_loss(query[:8], key[:8], keys, TEMPERATURE)
        mine, wanted = (
            (loss, torch.autograd.grad(loss, query)[0][:8]),
            (exact, torch.autograd.grad(exact, some)[0]),
        )
        return f"as float64 within {within(mine, wanted):.0e}"

    return Contest(
        f"K = 2^{exponent}",
        lambda: run(keys),
        f"K = 2^14, {len(keys) // SHORT} times",
        repeated,
        same,
        0.9,
        memory=True,
    )
