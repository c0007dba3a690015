"""The same run in 1, 2 and 4 processes (gloo, float64): one loss curve, one queue, one set of
running statistics.

Well-known wrong variants fail the same comparison.
"""

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import DoublePrecision
from lightning_fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn

from core.data.images import Arrays
from core.data.source import train_sampler
from core.data.views import policy
from core.distributed import gather, mean_over_ranks, world
from core.information import losses as kernels
from core.networks.batchnorm import synchronise
from core.randomness import KeyedRNG
from core.run import checkpoint, config
from core.run.optim import build_optimizer
from core.run.sharding import sharded, strategy
from core.run.train import train
from tests.front_door import run_at_a_port

# SHORT: of sharded runs and of wrong variants, whose first steps are enough
STEPS, SHORT, BATCH, SHAPE = 6, 2, 12, (3, 8, 8)
CONTRASTIVE = {"backbone": "small", "hidden": 16, "projection": 8, "temperature": 0.2}
MOCO = CONTRASTIVE | {
    "queue": 37,
    "momentum": 0.9,
    "momentum_end": 0.9,
}  # neither 12 nor 24 keys a step divide 37
MLP = {
    "backbone": "mlp",
    "decoder": "mlp",
    "width": 16,
    "latent": 4,
}  # without batch norm, which would see the micro batches
VAE = {"backbone": "small", "decoder": "mlp", "width": 16, "latent": 4, "likelihood": "logistic"}
METHODS: dict[
    str, tuple[str, dict[str, Any], dict[str, Any]]
] = {  # with sgd, because AdamW would hide a gradient of the wrong scale
    "simclr": ("contrastive.simclr.SimCLR", CONTRASTIVE, {"lr": 1.0}),
    "moco": ("contrastive.moco.MoCo", MOCO, {"lr": 1.0}),
    "moco, one direction": ("contrastive.moco.MoCo", MOCO | {"symmetric": False}, {"lr": 1.0}),
    "vae": ("vae.beta.BetaVAE", VAE, {"lr": 0.003}),
    "vae in micro batches": (
        "vae.beta.BetaVAE",
        MLP | {"rate": {"kind": "free_bits", "nats": 0.3}},
        {"lr": 0.1, "micro_batch": 2},
    ),
}


def no_gradient(x: Tensor) -> Tensor:
    """A local loss against candidates without gradient."""
    return gather(x.detach())


def own_gradient(x: Tensor) -> Tensor:
    """The same, but the own rows have a gradient, as in many repositories."""
    parts = list(gather(x.detach()).chunk(world()))
    parts[torch.distributed.get_rank()] = x
    return torch.cat(parts)


class Averaging(torch.autograd.Function):
    """gather with a gradient that is averaged over processes, although DDP also averages: wrong by
    a factor of 1/W.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad / world()


WRONG = {
    "no gradient": no_gradient,
    "own gradient": own_gradient,
    "1/W": lambda x: gather(Averaging.apply(x)),
}


def run_of(name: str) -> config.RunConfig:
    method, model, optim = METHODS[name]
    optim = {"name": "sgd", "batch_size": BATCH, "epochs": 4} | optim
    return config.from_dict(
        {"method": method, "model": model, "optim": optim, "folder": "none"}, "test"
    )


class Tiny(nn.Sequential):
    """A backbone with only one batch norm, because each batch norm needs four sums over processes
    in a pass, and these take most of the time of the tests.
    """

    DIM = 16

    def __init__(self, shape: tuple[int, int, int]):
        super().__init__(
            nn.Conv2d(shape[0], 8, 3, 2, 1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, self.DIM),
        )


def trained(
    fabric: Fabric,
    name: str,
    wrong: str = "",
    sync: bool = True,
    stop: int = STEPS,
    begun: Path | None = None,
    saved: Path | None = None,
) -> dict[str, Any]:
    """Losses of the global batch at each step, and the buffers at the end. A run may continue from
    the checkpoint of another.
    """
    run, rng = run_of(name), KeyedRNG(0, 0)
    images = rng.integers("colour", 216, 60, 3, 1, 1) + rng.integers("noise", 40, 60, *SHAPE)
    source = Arrays(
        images.to(torch.uint8),
        torch.zeros(60, 1, dtype=torch.long),
        {"class": 1},
        policy("crop", 8),
    )
    with patch("core.networks.backbones.SmallNet", Tiny):
        method = checkpoint.build_method(run, SHAPE)
    method.micro_batch = run.optim.micro_batch
    if sync and world() > 1:
        method = synchronise(method)
    with patch("core.run.sharding.BLOCK", 1):  # every layer is a block
        model = fabric.setup_module(method)
    state = checkpoint.State(run, method, build_optimizer(method, run.optim))
    optimizer = fabric.setup_optimizers(state.optimizer)
    if begun:
        checkpoint.restore(begun, checkpoint.read(begun), state)
    order = train_sampler(60, BATCH, 0, state.step, stop, fabric.global_rank, fabric.world_size)
    kernels.gather = WRONG.get(wrong, gather)
    steps = train(
        fabric, model, optimizer, state, source.batches(order, method.views), STEPS, 60 // BATCH
    )
    losses = mean_over_ranks(
        {str(state.step): metrics["loss"].item() for metrics in steps}, fabric.device
    )  # one sum over processes for all steps
    kernels.gather = gather
    if saved:
        checkpoint.save(saved, state)
    assert sharded(method) == isinstance(fabric.strategy, ModelParallelStrategy)
    return {
        "losses": torch.tensor(list(losses.values()), dtype=torch.float64),
        "buffers": dict(method.named_buffers()),
    }


def resumed(fabric: Fabric, middle: Path) -> dict[str, Any]:
    """A run that two processes start, and that one and four processes continue."""
    return (
        trained(fabric, "moco", stop=STEPS // 2, saved=middle)
        if fabric.world_size == 2
        else trained(fabric, "moco", begun=middle)
    )


def everything(fabric: Fabric, folder: Path) -> dict[str, Any]:
    """All methods, replicated on every process or sharded among them, and resumed runs."""
    made = {name: trained(fabric, name) for name in METHODS}
    made["resumed"] = resumed(fabric, folder / "whole.ckpt")
    sharding = fabric
    if fabric.world_size > 1:
        sharding = Fabric(
            accelerator="cpu",
            devices=fabric.world_size,
            strategy=strategy("64-true"),
            plugins=DoublePrecision(),
        )
        sharding.launch()
        made |= {f"{name}, sharded": trained(sharding, name, stop=SHORT) for name in METHODS}
    made["resumed, sharded"] = resumed(sharding, folder / "sharded.ckpt")
    if fabric.world_size == 2:
        for wrong in WRONG:
            made[f"simclr, {wrong}"] = trained(fabric, "simclr", wrong, stop=SHORT)
        made |= {
            f"{name}, apart": trained(fabric, name, sync=False, stop=SHORT)
            for name in ("simclr", "moco")
        }
    return made


def process(number: int, size: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    place = {
        "RANK": number,
        "LOCAL_RANK": number,
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
        "GROUP_RANK": 0,
    }
    meeting = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "GLOO_SOCKET_IFNAME": "lo",
        "TORCHELASTIC_RUN_ID": "test",
    }
    os.environ |= {key: str(value) for key, value in (place | meeting).items()}
    fabric = Fabric(accelerator="cpu", devices=size, precision="64-true")
    fabric.launch()
    assert (world(), fabric.global_rank) == (size, number)
    torch.save(everything(fabric, folder), folder / f"{size}-{number}")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[int, list[dict[str, Any]]]:
    """The results of 1, 2 and 4 processes, by number of processes and rank."""
    folder = tmp_path_factory.mktemp("worlds")
    for size in (2, 4):
        run_at_a_port(process, size, folder)
    alone = everything(Fabric(accelerator="cpu", devices=1, precision="64-true"), folder)
    return {1: [alone]} | {
        size: [load(folder / f"{size}-{rank}") for rank in range(size)] for size in (2, 4)
    }


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def apart(a: Tensor, b: Tensor) -> float:
    """The largest relative difference."""
    return ((a - b).abs() / b.abs()).max().item()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [2, 4])
def test_the_number_of_processes_does_not_change_a_loss(made, name, size):
    alone = made[1][0][name]["losses"]
    assert alone.isfinite().all() and alone[-5:].std() > 0.01, (
        "a run has died, so nothing is compared"
    )
    assert apart(made[size][0][name]["losses"], alone) < 1e-6


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [2, 4])
def test_every_process_holds_the_same_buffers(made, name, size):
    """Queue, pointer, running statistics and prices are equal bit for bit on all ranks, and equal
    to those of one process up to the order of sums.
    """
    alone, ranks = (
        made[1][0][name]["buffers"],
        [rank[name]["buffers"] for rank in made[size]],
    )
    for key, value in alone.items():
        assert all(torch.equal(rank[key], ranks[0][key]) for rank in ranks), key
        torch.testing.assert_close(ranks[0][key], value, rtol=1e-6, atol=1e-8)
    if name.startswith("moco"):
        assert alone["queue.pointer"] == STEPS * BATCH * (2 if name == "moco" else 1) % 37


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [2, 4])
def test_sharding_changes_neither_losses_nor_buffers(made, name, size):
    whole, ranks = made[size][0][name], [rank[f"{name}, sharded"] for rank in made[size]]
    assert apart(ranks[0]["losses"], whole["losses"][:SHORT]) < 1e-9
    assert all(
        torch.equal(rank["buffers"][key], value)
        for rank in ranks
        for key, value in ranks[0]["buffers"].items()
    )


@pytest.mark.parametrize("kind", ["resumed", "resumed, sharded"])
@pytest.mark.parametrize("size", [1, 4])
def test_a_run_of_two_processes_continues_with_another_number(made, size, kind):
    whole, begun, goes_on = made[1][0]["moco"], made[2][0][kind], made[size][0][kind]
    assert apart(torch.cat([begun["losses"], goes_on["losses"]]), whole["losses"]) < 1e-6
    torch.testing.assert_close(
        goes_on["buffers"]["queue.keys"], whole["buffers"]["queue.keys"], rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize(
    "wrong", [*(f"simclr, {wrong}" for wrong in WRONG), "simclr, apart", "moco, apart"]
)
def test_wrong_variants_fail_the_same_comparison(made, wrong):
    alone = made[1][0][wrong.split(",")[0]]["losses"]
    assert apart(made[2][0][wrong]["losses"], alone[:SHORT]) > 1e-4
