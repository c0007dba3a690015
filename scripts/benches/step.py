"""A SimCLR epoch with augmentation: ours against lightly's LightningModule example with its
transform and a DataLoader.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from core.networks.backbones import Backbone
from scripts.benches.augment import Pictures
from scripts.benches.contest import Contest, seconds
from scripts.benches.loop import epoch, lightning, ours_in

IMAGES, BATCH, SHAPE = 8192, 256, (3, 32, 32)
WORKERS = (0, 1, 2, 4)


def contests(device: torch.device) -> Iterator[Contest]:
    """32 steps of 256 images, 32x32: a small net of four strided convolutions, and ResNet-18 with
    the standard stem.

    In another contest, the small net runs in bf16, as a user may train it, against lightly's epoch
    in float32. That contest does not compare equal work.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, *SHAPE), dtype=torch.uint8, generator=generator)
    for backbone, stem, target in (("small", "cifar", 4.5), ("resnet18", "imagenet", 1.5)):
        overrides = [
            f"model.backbone={backbone}",
            f"model.stem={stem}",
            f"optim.batch_size={BATCH}",
            "model.temperature=0.5",
            "optim.warmup_epochs=0",
        ]
        precisions = ("", "bf16-mixed") if backbone == "small" else ("",)
        workers = best_workers(backbone, stem, images, device)

        def same(mine: float, peer: float) -> str:
            said = f"mean loss of the first epoch {mine:.2f} and {peer:.2f}"
            assert abs(mine - peer) < 0.1 * peer, said
            return said

        for precision in precisions:
            ours = epoch("simclr_cifar10", overrides, images, device, precision)
            name = f"SimCLR epoch, 32 steps of 256, {backbone}{ours_in(precision)}"
            theirs = peer_epoch(backbone, stem, images, device, workers)
            other = f"lightly's LightningModule, {workers} workers"
            wanted = None if precision else target
            yield Contest(name, ours, other, theirs, same, wanted, rounds=3)


class Labelled(Pictures):
    """Views in the form that lightly's example expects."""

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index), 0, ""


class Example(LightningModule):
    """lightly's example of SimCLR with our network."""

    def __init__(self, backbone: str, stem: str):
        super().__init__()
        self.backbone = Backbone(backbone, SHAPE, stem)
        self.projection_head = SimCLRProjectionHead(self.backbone.dim, 512, 128)
        self.criterion = NTXentLoss(temperature=0.5)
        self.losses: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x).flatten(start_dim=1))

    def training_step(self, batch: Any, index: int) -> Tensor:
        (first, second), _, _ = batch
        loss = self.criterion(self(first), self(second))
        self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.06, momentum=0.9, weight_decay=5e-4)


def peer_epoch(
    backbone: str, stem: str, images: Tensor, device: torch.device, workers: int
) -> Callable[[], float]:
    """An epoch under Lightning's Trainer. Its time includes the start of the workers, which
    happens in every epoch.
    """
    loader = DataLoader(Labelled(images), BATCH, shuffle=True, drop_last=True, num_workers=workers)
    model = Example(backbone, stem)

    def once() -> float:
        model.losses.clear()
        lightning(model, loader, 1, device)
        return torch.stack(model.losses).mean().item()

    return once


def best_workers(backbone: str, stem: str, images: Tensor, device: torch.device) -> int:
    """The number of workers with which the peer is fastest here."""
    times = {
        workers: seconds(peer_epoch(backbone, stem, images, device, workers), device)
        for workers in WORKERS
    }
    return min(times, key=times.__getitem__)
