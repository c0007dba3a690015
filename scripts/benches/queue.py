"""MoCo's loss, its gradient and the enqueue: `core.infonce.queue_loss` and `KeyQueue` beside lightly's NTXentLoss with its memory bank."""

from core.infonce import queue_loss

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss

from contrastive.queue import KeyQueue
from scripts.benches.contest import Contest, within

TEMPERATURE, DIMENSIONS, QUERIES = 0.1, 128, 256


def contests(device: torch.device) -> Iterator[Contest]:
    for length, target in ((4096, None), (65536, 5.5)):
        yield contest(length, target, device)


def contest(length: int, target: float | None, device: torch.device) -> Contest:
    generator = torch.Generator().manual_seed(length)
    query, key = (torch.randn(QUERIES, DIMENSIONS, generator=generator).to(device) for _ in range(2))
    query.requires_grad_()
    queue = KeyQueue(length, DIMENSIONS).to(device)
    theirs = NTXentLoss(TEMPERATURE, (length, DIMENSIONS)).to(device)
    theirs.memory_bank.bank.copy_(queue.keys)

    def ours() -> tuple[torch.Tensor, ...]:
        unit = F.normalize(key, dim=1)  # theirs normalises inside
        loss = queue_loss(F.normalize(query, dim=1), unit, queue.keys, TEMPERATURE)
        queue.enqueue(unit)
        return (loss, *torch.autograd.grad(loss, query))

    def peer() -> tuple[torch.Tensor, ...]:
        loss = theirs(query, key)
        return (loss, *torch.autograd.grad(loss, query))

    def same(ours: tuple[torch.Tensor, ...], peer: tuple[torch.Tensor, ...]) -> str:
        error = within(ours, peer)
        assert (theirs.memory_bank.bank - queue.keys).abs().max() < 1e-6, "the queues differ"
        return f"loss and gradient within {error:.0e}"

    name = f"MoCo, N = {QUERIES}, K = {length:,}, D = {DIMENSIONS}"
    return Contest(name, ours, "lightly NTXentLoss with memory bank", peer, same, target, memory=True)
