"""CLIP and SigLIP in 1, 2 and 4 processes (gloo, float64): the losses and gradients of open_clip,
and one loss curve over 30 steps.
"""

import math
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from core.data.captioned_sprites import CaptionedSprites, CaptionedSpritesConfig
from core.data.source import train_sampler
from core.distributed import gather, mean_over_ranks, world
from core.information import losses as kernels
from core.information import sigmoid as sigmoid_kernel
from core.information.losses import clip_loss
from core.information.sigmoid import sigmoid_loss
from core.run import checkpoint, config
from core.run.optim import build_optimizer
from core.run.train import train
from tests.front_door import run_at_a_port
from tests.open_clip_loss import open_clip_loss

STEPS, BATCH, PAIRS, SHAPE = 30, 12, 16, (3, 32, 32)
MODEL = {"vocabulary": 64, "context": 16, "width": 8, "layers": 1, "heads": 2, "projection": 8}
MODEL |= {"temperature": 0.2}
# SGD would not leave log N in so few steps
OPTIM = {"name": "adamw", "lr": 0.2, "batch_size": BATCH, "epochs": 10}
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "infonce": ({}, {}),
    "sigmoid": ({"loss": "sigmoid", "bias": -2.0}, {}),
}


class Tiny(nn.Sequential):
    """A backbone without batch norm, whose sums over processes would take most of the time."""

    DIM = 16

    def __init__(self, shape: tuple[int, int, int]):
        layers = [nn.Conv2d(shape[0], 8, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(512, self.DIM)]
        super().__init__(*layers)


def trained(fabric: Fabric, name: str, detached: bool = False) -> dict[str, Any]:
    """Losses of the global batch at each step, and the weights at the end."""
    model, optim = RUNS[name]
    values = {"method": "contrastive.clip.CLIP", "model": MODEL | model, "optim": OPTIM | optim}
    run = config.from_dict(values | {"folder": "none"}, "test")
    source = CaptionedSprites(CaptionedSpritesConfig(1, 6, 1, 1, train=60, tell=0.8), "train", 0)
    with patch("core.networks.backbones.SmallNet", Tiny):
        method = checkpoint.build_method(run, SHAPE)
    method.learn_words(source.captions(60))
    method.micro_batch = run.optim.micro_batch
    wrapped = fabric.setup_module(method)
    state = checkpoint.State(run, method, build_optimizer(method, run.optim))
    optimizer = fabric.setup_optimizers(state.optimizer)
    order = train_sampler(60, BATCH, 0, 0, STEPS, fabric.global_rank, fabric.world_size)
    wrong = patch.object(kernels, "gather", lambda x: gather(x.detach()))
    batches = source.batches(order, method.views)
    if detached:
        wrong.start()
    steps = train(fabric, wrapped, optimizer, state, batches, STEPS, 60 // BATCH)
    named = {str(state.step): metrics["loss"].item() for metrics in steps}
    if detached:
        wrong.stop()
    losses = mean_over_ranks(named, fabric.device)
    return {
        "losses": torch.tensor(list(losses.values()), dtype=torch.float64),
        "weights": {k: v.detach().clone() for k, v in method.state_dict().items()},
    }


def inputs(rank: int, size: int) -> tuple[list[Tensor], list[Tensor]]:
    """This process's unit codes of `PAIRS` images and texts; log scale and bias [1]."""
    rng = torch.Generator().manual_seed(5)
    codes = [F.normalize(torch.randn(PAIRS, 6, generator=rng).double(), dim=1) for _ in range(2)]
    mine = [x.chunk(size)[rank].clone().requires_grad_() for x in codes]
    return mine, [torch.tensor([value]).double().requires_grad_() for value in (2.0, -3.0)]


def ours(kind: str, rank: int, size: int) -> tuple[Tensor, ...]:
    """The loss, and its gradients to image codes, text codes, log scale and bias."""
    (image, text), (log_scale, bias) = inputs(rank, size)
    scaled = image * log_scale.exp()
    if kind == "sigmoid":
        loss = sigmoid_loss(scaled, text, bias)
        return loss, *torch.autograd.grad(loss, [image, text, log_scale, bias])
    loss = clip_loss(scaled, text, 1.0)
    return loss, *torch.autograd.grad(loss, [image, text, log_scale])


def theirs(kind: str, rank: int, size: int) -> tuple[Tensor, ...]:
    """The same by open_clip, with gathered gradients and local losses."""
    module = open_clip_loss()
    (image, text), (log_scale, bias) = inputs(rank, size)
    if kind == "sigmoid":
        made = module.SigLipLoss(rank=rank, world_size=size, dist_impl="gather")
        loss = made(image, text, log_scale.exp(), bias)
        return loss, *torch.autograd.grad(loss, [image, text, log_scale, bias])
    made = module.ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=size)
    loss = made(image, text, log_scale.exp())
    return loss, *torch.autograd.grad(loss, [image, text, log_scale])


def compared(rank: int, size: int) -> dict[str, Any]:
    """Losses and gradients by both programs."""
    found = {}
    for kind in ("infonce", "sigmoid"):
        found[kind] = {"ours": ours(kind, rank, size)}
        try:
            found[kind]["theirs"] = theirs(kind, rank, size)
        except pytest.skip.Exception:
            found[kind]["theirs"] = None
    return found


def everything(fabric: Fabric) -> dict[str, Any]:
    size = fabric.world_size
    made: dict[str, Any] = {"compared": compared(fabric.global_rank, size)}
    made |= {name: trained(fabric, name) for name in RUNS}
    if size == 2:
        made["wrong"] = trained(fabric, "infonce", detached=True)
    return made


def process(number: int, size: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    ranks = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    meeting |= {"GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {key: str(value) for key, value in (ranks | meeting).items()}
    fabric = Fabric(accelerator="cpu", devices=size, precision="64-true")
    fabric.launch()
    assert (world(), fabric.global_rank) == (size, number)
    assert sigmoid_kernel.gather is gather
    torch.save(everything(fabric), folder / f"{size}-{number}")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[int, list[dict[str, Any]]]:
    """The results of 1, 2 and 4 processes, by number of processes and rank."""
    folder = tmp_path_factory.mktemp("worlds")
    for size in (2, 4):
        run_at_a_port(process, size, folder)
    found = {1: [everything(Fabric(accelerator="cpu", devices=1, precision="64-true"))]}
    for size in (2, 4):
        files = [folder / f"{size}-{rank}" for rank in range(size)]
        found[size] = [torch.load(file, weights_only=True) for file in files]
    return found


def apart(a: Tensor, b: Tensor) -> float:
    """The largest relative difference."""
    return ((a - b).abs() / b.abs()).max().item()


@pytest.mark.parametrize("kind", ["infonce", "sigmoid"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_loss_and_gradients_are_those_of_open_clip(made, kind, size):
    """Loss and gradients of codes on every process; of scale and bias the mean over processes,
    which is what an optimiser sees.
    """
    ranks = [rank["compared"][kind] for rank in made[size]]
    if ranks[0]["theirs"] is None:
        open_clip_loss()  # skips, with the reason
    for place in range(len(ranks[0]["ours"])):
        mine, other = ([rank[who][place] for rank in ranks] for who in ("ours", "theirs"))
        if place > 2:
            mine, other = [torch.stack(mine).mean(0)], [torch.stack(other).mean(0)]
        for a, b in zip(mine, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["infonce", "sigmoid"])
@pytest.mark.parametrize("size", [2, 4])
def test_the_mean_over_processes_is_the_loss_of_one_process(made, kind, size):
    """The gradients of codes are each process's own rows; those of scale and bias are means."""
    alone = made[1][0]["compared"][kind]["ours"]
    ranks = [rank["compared"][kind]["ours"] for rank in made[size]]
    for place, whole in enumerate(alone):
        parts = [rank[place] for rank in ranks]
        rows = place in (1, 2)
        found = torch.cat(parts) / size if rows else torch.stack(parts).mean(0)
        torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("size", [2, 4])
def test_the_number_of_processes_does_not_change_a_run(made, name, size):
    alone = made[1][0][name]
    assert alone["losses"].isfinite().all() and alone["losses"].std() > 0.05
    if name == "infonce":
        assert alone["losses"][-10:].mean() < math.log(BATCH) - 0.1, "nothing was learned"
    assert apart(made[size][0][name]["losses"], alone["losses"]) < 1e-6
    for key, value in alone["weights"].items():
        ranks = [rank[name]["weights"][key] for rank in made[size]]
        assert all(torch.equal(other, ranks[0]) for other in ranks), key
        torch.testing.assert_close(ranks[0], value, rtol=1e-5, atol=1e-7)


def test_a_gather_without_gradient_fails_the_same_comparison(made):
    assert apart(made[2][0]["wrong"]["losses"], made[1][0]["infonce"]["losses"]) > 1e-4
