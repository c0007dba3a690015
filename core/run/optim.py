"""Optimisers and the learning-rate schedule.

The learning rate is per 256 images and scales with the global batch: lr = optim.lr *
optim.batch_size / 256 (Goyal et al. 2017).
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from core.checks import above_zero, at_least, one_of
from core.distributed import in_parts

OPTIMISERS = ("adamw", "adamax", "sgd", "lars")


@dataclass
class OptimConfig:
    """The optimiser. Weight decay acts on matrices and filters only, not on biases and norms."""

    name: str = "adamw"  # the optimiser: adamw | adamax | sgd | lars
    lr: float = 1e-3  # learning rate for a batch of 256; multiplied by batch_size / 256
    batch_size: int = 256  # images of a step, on all devices together
    micro_batch: int = 0  # images that a process encodes at a time, to save memory; 0 = all
    epochs: int = 20  # passes over the train split
    warmup_epochs: float = 1.0  # epochs in which the learning rate rises from 0
    weight_decay: float = 1e-4  # weight decay of matrices and filters, not of biases and norms
    momentum: float = 0.9  # momentum of sgd and lars
    clip: float = 0.0  # largest gradient norm; 0 = no clipping

    def __post_init__(self) -> None:
        one_of(self, name=OPTIMISERS)
        above_zero(self, "lr", "batch_size", "epochs")
        at_least(self, warmup_epochs=0, weight_decay=0, clip=0)
        if self.batch_size < 2:
            raise ValueError(f"batch_size: a batch needs at least 2 images, got {self.batch_size}")
        if self.micro_batch < 0 or self.micro_batch == 1:
            raise ValueError(f"micro_batch: must be 0 or 2 or more images, got {self.micro_batch}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: must be in [0, 1), got {self.momentum}")
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs: {self.warmup_epochs:g} epochs are longer than the training, so the"
                f" learning rate would only rise; set at most {self.epochs} (optim.epochs)"
            )
        if self.micro_batch > self.batch_size:
            raise ValueError(
                f"micro_batch: {self.micro_batch} is more than batch_size, {self.batch_size}; set 0"
                " for the whole batch"
            )
        if not self.scaled_lr < math.inf:
            raise ValueError(f"lr: {self.lr:g} times batch_size / 256 is not finite")

    @property
    def scaled_lr(self) -> float:
        return self.lr * self.batch_size / 256


def build_optimizer(method: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser of all trained parameters, in two groups: with and without weight decay."""
    trained = [p for p in method.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.scaled_lr, fused=True)
    if config.name == "adamax":
        return torch.optim.Adamax(groups, lr=config.scaled_lr)
    if config.name == "sgd":
        # torch fuses SGD only for whole tensors
        fused = not any(map(in_parts, trained))
        return torch.optim.SGD(groups, lr=config.scaled_lr, momentum=config.momentum, fused=fused)
    from timm.optim import Lars  # importing timm takes seconds

    return Lars(groups, lr=config.scaled_lr, momentum=config.momentum)


def warmup_cosine(step: int, warmup: float, total: int) -> float:
    """The learning rate at a step, as a share of its peak: linear for `warmup` steps, then half a
    cosine down to 0 at `total`.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, total - warmup)))
