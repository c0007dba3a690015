"""Training loops as contestants: ours (`scripts/pretrain.py` without folder, logger and validation)
and Lightning's.
"""

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from core.data.images import Arrays
from core.data.source import train_sampler
from core.data.views import policy
from core.run import config
from core.run.setup import build_state, start_fabric
from core.run.train import train
from scripts.demo import CONFIGS


def epoch(
    name: str, overrides: list[str], images: Tensor, device: torch.device, precision: str = ""
) -> Callable[[], float]:
    """One epoch of configs/NAME.yaml over uint8 images [n, C, H, W]; gives the mean loss, and each
    call goes on from the last.

    `precision` is `trainer.precision` where it is not the config's own.
    """
    chosen = [
        f"trainer.accelerator={device.type}",
        *([f"trainer.precision={precision}"] if precision else []),
    ]
    run = config.read(str(CONFIGS / f"{name}.yaml"), [*overrides, *chosen])
    fabric = start_fabric(run)
    labels = torch.zeros(len(images), 1, dtype=torch.int64, device=device)
    source = Arrays(
        images.to(device), labels, {"class": 1}, policy(run.data.augment, images.shape[-1])
    )
    state, model, optimizer = build_state(fabric, run, source.shape)
    steps = len(images) // run.optim.batch_size

    def once() -> float:
        order = train_sampler(
            len(source),
            run.optim.batch_size,
            run.seed,
            state.step,
            state.step + steps,
            device=fabric.device,
        )
        batches = source.batches(order, state.method.views)
        losses = [
            step["loss"]
            for step in train(fabric, model, optimizer, state, batches, 1000 * steps, steps)
        ]
        return torch.stack(losses).mean().item()

    return once


def ours_in(precision: str) -> str:
    """What a contest's name says of it: nothing where both sides compute in the same."""
    return f", ours in {precision}" if precision else ""


def lightning(
    model: LightningModule, loader: DataLoader[Any], epochs: int, device: torch.device
) -> None:
    """Epochs under Lightning's Trainer, which writes and prints nothing."""
    silent: Any = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    Trainer(max_epochs=epochs, accelerator=device.type, devices=1, **silent).fit(model, loader)
