"""Our own training loop as a contestant: `scripts/pretrain.py` without its folder, its logger and its validation."""

from core import config
from core.images import Arrays
from core.source import training_order
from core.train import train
from core.views import policy

from collections.abc import Callable

import torch
from torch import Tensor

from scripts.demo import CONFIGS
from scripts.pretrain import build_state, start_fabric


def epoch(name: str, overrides: list[str], images: Tensor, device: torch.device) -> Callable[[], float]:
    """One epoch of configs/NAME.yaml over uint8 images [n, C, H, W]; gives the mean loss, and each call goes on from the last."""
    run = config.read(str(CONFIGS / f"{name}.yaml"), [*overrides, f"trainer.accelerator={device.type}"])
    fabric = start_fabric(run)
    labels = torch.zeros(len(images), 1, dtype=torch.int64, device=device)
    source = Arrays(images.to(device), labels, {"class": 1}, policy(run.data.augment, images.shape[-1]))
    state = build_state(run, source.shape)
    model, optimizer = fabric.setup(state.method, state.optimizer)
    steps = len(images) // run.optim.batch_size

    def once() -> float:
        order = training_order(len(source), run.optim.batch_size, run.seed, state.step, state.step + steps, device=fabric.device)
        batches = source.batches(order, state.method.views)
        losses = [step["loss"] for step in train(fabric, model, optimizer, state, batches, 1000 * steps, steps)]
        return torch.stack(losses).mean().item()

    return once
