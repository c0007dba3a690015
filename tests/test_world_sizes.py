"""The same run in 1, 2 and 4 processes (gloo, float64): one loss curve, one queue, one set of running statistics.

The well-known wrong variants go through the same comparison and fail it.
"""

from core import checkpoint, config, infonce
from core.batchnorm import synchronise
from core.distributed import averaged, gather, world
from core.images import Arrays
from core.optim import build_optimizer
from core.randomness import Draws
from core.source import training_order
from core.train import train
from core.views import policy

import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from lightning_fabric import Fabric
from torch import Tensor

STEPS, BATCH, SHAPE = 50, 12, (3, 8, 8)
CONTRASTIVE = {"backbone": "small", "hidden": 16, "projection": 8, "temperature": 0.2}
MOCO = CONTRASTIVE | {"queue": 37, "momentum": 0.9, "momentum_end": 0.9}  # neither 12 nor 24 keys a step divide 37
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "simclr": ("contrastive.simclr.SimCLR", CONTRASTIVE),
    "moco": ("contrastive.moco.MoCo", MOCO),
    "moco, one direction": ("contrastive.moco.MoCo", MOCO | {"symmetric": False}),
    "vae": ("vae.beta.BetaVAE", {"backbone": "small", "decoder": "mlp", "width": 16, "latent": 4, "likelihood": "logistic"}),
    "vae, free bits": ("vae.beta.BetaVAE", {"width": 4, "latent": 4, "rate": {"kind": "free_bits", "nats": 0.3}}),
}


def no_gradient(x: Tensor) -> Tensor:
    """A local loss against candidates that carry no gradient."""
    return gather(x.detach())


def own_gradient(x: Tensor) -> Tensor:
    """The same with the own rows put back, which is what many repositories do."""
    parts = list(gather(x.detach()).chunk(world()))
    parts[torch.distributed.get_rank()] = x
    return torch.cat(parts)


class Averaging(torch.autograd.Function):
    """gather, its gradient averaged over processes although DDP averages too: off by 1/W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad / world()


WRONG = {"no gradient": no_gradient, "own gradient": own_gradient, "1/W": lambda x: gather(Averaging.apply(x))}


def run_of(name: str) -> config.RunConfig:
    method, model = METHODS[name]
    optim = {"name": "sgd", "lr": 0.4 if name.startswith("vae") else 4.0, "batch_size": BATCH, "epochs": 10, "clip": 0.5}  # AdamW would forgive a wrong scale
    return config.from_dict({"method": method, "model": model, "optim": optim, "folder": "none"}, "test")


def trained(fabric: Fabric, name: str, wrong: str = "", sync: bool = True) -> dict[str, Any]:
    """Losses of the global batch at each step, and the buffers at the end."""
    run, images = run_of(name), Draws(0, 0).integers("images", 256, 60, *SHAPE).to(torch.uint8)
    source = Arrays(images, torch.zeros(60, 1, dtype=torch.long), {"class": 1}, policy("simclr", 8))
    method = checkpoint.build_method(run, SHAPE)
    if sync and world() > 1:
        method = synchronise(method)
    state = checkpoint.State(run, method, build_optimizer(method, run.optim))
    model, optimizer = fabric.setup(state.method, state.optimizer)
    order = training_order(60, BATCH, 0, 0, STEPS, fabric.global_rank, fabric.world_size)
    infonce.gather = WRONG.get(wrong, gather)
    losses = [
        averaged({"loss": metrics["loss"].item()}, fabric.device)["loss"]
        for metrics in train(fabric, model, optimizer, state, source.batches(order, method.views), STEPS, 60 // BATCH)
    ]
    infonce.gather = gather
    return {"losses": torch.tensor(losses, dtype=torch.float64), "buffers": dict(method.named_buffers())}


def everything(fabric: Fabric) -> dict[str, Any]:
    made = {name: trained(fabric, name) for name in METHODS}
    if fabric.world_size == 2:
        made |= {f"simclr, {wrong}": trained(fabric, "simclr", wrong) for wrong in WRONG}
        made |= {f"{name}, apart": trained(fabric, name, sync=False) for name in ("simclr", "moco")}
    return made


def process(number: int, size: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    place = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "GROUP_RANK": 0}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo", "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {key: str(value) for key, value in (place | meeting).items()}
    fabric = Fabric(accelerator="cpu", devices=size, precision="64-true")
    fabric.launch()
    assert (world(), fabric.global_rank) == (size, number)
    torch.save(everything(fabric), f"{folder}/{size}-{number}")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[int, list[dict[str, Any]]]:
    """What 1, 2 and 4 processes make, by number of processes and rank."""
    folder = tmp_path_factory.mktemp("worlds")
    multiprocessing.set_forkserver_preload([__name__])
    for size in (2, 4):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        mp.start_processes(process, (size, port, str(folder)), size, start_method="forkserver")
    alone = everything(Fabric(accelerator="cpu", devices=1, precision="64-true"))
    return {1: [alone]} | {size: [load(folder / f"{size}-{rank}") for rank in range(size)] for size in (2, 4)}


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def apart(a: Tensor, b: Tensor) -> float:
    """The largest relative difference."""
    return ((a - b).abs() / b.abs()).max().item()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [2, 4])
def test_the_number_of_processes_does_not_change_a_loss(made, name, size):
    alone = made[1][0][name]["losses"]
    assert alone[-5:].mean() < alone[:5].mean(), "nothing was learned"
    assert apart(made[size][0][name]["losses"], alone) < 1e-6


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [2, 4])
def test_every_process_holds_the_same_buffers(made, name, size):
    """Queue, pointer, running statistics, prices: bit for bit on every rank, and those of one process up to summation."""
    alone, ranks = made[1][0][name]["buffers"], [rank[name]["buffers"] for rank in made[size]]
    for key, value in alone.items():
        assert all(torch.equal(rank[key], ranks[0][key]) for rank in ranks), key
        torch.testing.assert_close(ranks[0][key], value, rtol=1e-6, atol=1e-8)
    if name.startswith("moco"):
        assert alone["queue.pointer"] == STEPS * BATCH * (2 if name == "moco" else 1) % 37


@pytest.mark.parametrize("wrong", [*(f"simclr, {wrong}" for wrong in WRONG), "simclr, apart", "moco, apart"])
def test_wrong_variants_fail_the_same_comparison(made, wrong):
    assert apart(made[2][0][wrong]["losses"], made[1][0][wrong.split(",")[0]]["losses"]) > 1e-4
