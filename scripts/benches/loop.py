"""Training loops for contests: ours (without folder, logger and validation) and Lightning's."""

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from configs import CONFIGS
from core.data.images import Arrays
from core.data.source import train_sampler
from core.data.views import policy
from core.method import Method
from core.run import config
from core.run.setup import build_state, start_fabric
from core.run.train import train


def epoch(
    name: str, overrides: list[str], images: Tensor, device: torch.device, precision: str = ""
) -> Callable[[], float]:
    """A function that trains one more epoch of configs/NAME.yaml on uint8 images [n, C, H, W] and
    returns the mean loss.

    `precision`: `trainer.precision`, if it differs from the config's.
    """
    return epoch_of(name, overrides, images, device, precision)[0]


def epoch_of(
    name: str, overrides: list[str], images: Tensor, device: torch.device, precision: str = ""
) -> tuple[Callable[[], float], Method]:
    """Like `epoch`, but also returns the method that is trained."""
    chosen = [f"trainer.accelerator={device.type}"]
    chosen += [f"trainer.precision={precision}"] if precision else []
    run = config.read(str(CONFIGS / f"{name}.yaml"), [*overrides, *chosen])
    fabric = start_fabric(run)
    labels = torch.zeros(len(images), 1, dtype=torch.int64, device=device)
    views = policy(run.data.augment, images.shape[-1])
    source = Arrays(images.to(device), labels, {"class": 1}, views)
    state, model, optimizer = build_state(fabric, run, source.shape)
    steps = len(images) // run.optim.batch_size

    def once() -> float:
        size, end = run.optim.batch_size, state.step + steps
        order = train_sampler(len(source), size, run.seed, state.step, end, device=fabric.device)
        batches = source.batches(order, state.method.views)
        trained = train(fabric, model, optimizer, state, batches, 1000 * steps, steps)
        return torch.stack([step["loss"] for step in trained]).mean().item()

    return once, state.method


def ours_in(precision: str) -> str:
    """The end of a contest's name: empty if both sides have the same precision."""
    return f", ours in {precision}" if precision else ""


def lightning(
    model: LightningModule, loader: DataLoader[Any], epochs: int, device: torch.device
) -> None:
    """Train under Lightning's Trainer, without output and files."""
    silent: Any = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    Trainer(max_epochs=epochs, accelerator=device.type, devices=1, **silent).fit(model, loader)
