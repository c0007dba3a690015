"""SimCLR's loss and gradient on 1,024 images: 8 micro batches of 128 with cached embeddings,
against the whole batch at once.

Batch norms are in evaluation mode, so that both sides compute the same. Micro batches cost one more
forward pass, and save memory.
"""

from collections.abc import Iterator

import torch

from contrastive.simclr import SimCLR, SimCLRConfig
from core.batch import Batch
from core.randomness import KeyedRNG
from scripts.benches.contest import Contest, within

N, MICRO, SHAPE = 1024, 128, (3, 32, 32)


def contests(device: torch.device) -> Iterator[Contest]:
    for backbone in ("small", "resnet18"):
        yield contest(backbone, device)


def contest(backbone: str, device: torch.device) -> Contest:
    torch.manual_seed(0)
    method = SimCLR(SimCLRConfig(backbone=backbone, stem="imagenet"), SHAPE).to(device).eval()
    rng = KeyedRNG(0, 0, device=device)
    views = tuple(rng.integers(f"view{v}", 256, N, *SHAPE).to(torch.uint8) for v in range(2))
    batch = Batch(views, torch.zeros(N, 1, dtype=torch.long), torch.arange(N), rng)

    def run(size: int) -> tuple[torch.Tensor, ...]:
        method.micro_batch = size
        loss = method(batch).loss
        return (loss.detach(), *torch.autograd.grad(loss, list(method.parameters())))

    def same(parted: tuple[torch.Tensor, ...], whole: tuple[torch.Tensor, ...]) -> str:
        return f"loss and gradients within {within(parted, whole, 1e-3):.0e}"

    name, other = f"{backbone}, {N // MICRO} x {MICRO} images", f"one batch of {N:,}"
    return Contest(name, lambda: run(MICRO), other, lambda: run(0), same, memory=True, rounds=3)
