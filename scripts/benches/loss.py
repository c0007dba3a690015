"""NT-Xent and its gradient: `core.information.losses.nt_xent` against lightly's NTXentLoss."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss

from core.information.losses import nt_xent_and_in_batch
from scripts.benches.contest import Contest, within

TEMPERATURE, DIMENSIONS = 0.5, 128


def contests(device: torch.device) -> Iterator[Contest]:
    """N = 512, 2,048, 4,096 images, two views each."""
    for n, target in ((512, 3.5), (2048, 7.0), (4096, 9.0)):
        yield contest(n, target, device)


def contest(n: int, target: float, device: torch.device) -> Contest:
    generator = torch.Generator().manual_seed(n)
    first, second = (
        torch.randn(n, DIMENSIONS, generator=generator).to(device).requires_grad_()
        for _ in range(2)
    )
    criterion = NTXentLoss(temperature=TEMPERATURE)

    def ours() -> tuple[torch.Tensor, ...]:
        unit, other = (F.normalize(x, dim=1) for x in (first, second))  # the peer normalises, too
        loss = nt_xent_and_in_batch(unit, other, TEMPERATURE)[0]
        return (loss, *torch.autograd.grad(loss, (first, second)))

    def peer() -> tuple[torch.Tensor, ...]:
        loss = criterion(first, second)
        return (loss, *torch.autograd.grad(loss, (first, second)))

    def same(mine: tuple[torch.Tensor, ...], theirs: tuple[torch.Tensor, ...]) -> str:
        return f"loss and gradient within {within(mine, theirs):.0e}"

    name = f"NT-Xent, N = {n:,}, D = {DIMENSIONS}"
    return Contest(name, ours, "lightly NTXentLoss", peer, same, target, memory=True)
