"""Checkpoints that are exported."""

from pathlib import Path

import torch

from core.run import checkpoint, config
from core.run.checkpoint import State
from core.run.optim import build_optimizer

SMALL = [f"data.sprites.{split}=96" for split in ("train", "validation", "test")]
DATA = ["data.name=sprites", *SMALL]


def saved(folder: Path, name: str, *overrides: str, shape=(3, 32, 32)) -> Path:
    """A checkpoint of a config, whose batch norms have the statistics of a batch, so that features
    differ from image to image.
    """
    run = config.read(name, [f"folder={folder}", *SMALL, *overrides])
    method = checkpoint.build_method(run, shape)
    x = torch.rand(16, *shape, generator=torch.Generator().manual_seed(0))
    for _ in range(4):
        with torch.no_grad():
            method.train().embed(x)
    found = method.eval().embed(x)
    assert found.std(0).mean() > 1e-3, "a network whose features are all alike tests nothing"
    folder.mkdir(parents=True, exist_ok=True)
    state = State(run, method, build_optimizer(method, run.optim), 7)
    checkpoint.save(folder / "last.ckpt", state)
    return folder / "last.ckpt"


BACKBONES = {
    "small": ["model.backbone=small"],
    "what_where": ["model.backbone=what_where"],
    "cifar": ["model.backbone=resnet10t", "model.stem=cifar"],
    "resnet18_cifar": ["model.backbone=resnet18", "model.stem=cifar"],
    "imagenet": ["model.backbone=resnet10t", "model.stem=imagenet"],
    "vit": ["model.backbone=test_vit"],
    "vit_tiny": ["model.backbone=vit_tiny_patch16_224"],
}
