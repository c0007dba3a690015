"""The counting behind `twobounds scaling`: collectives of a training step by the tensor that goes
in, and memory at the peak of a loss.
"""

import argparse
import functools
import os
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from configs import CONFIGS
from core.data.datasets import open_source
from core.data.source import train_sampler
from core.distributed import rank, world
from core.information.losses import nt_xent, queue_loss
from core.method import Method
from core.networks.batchnorm import SyncBatchNorm
from core.run import config
from core.run.checkpoint import State
from core.run.setup import build_state, start_fabric
from core.run.sharding import sharded
from core.run.train import train
from scripts.benches.contest import peak

STEPS = 3  # the last of which is counted: DDP settles its buckets in the first two
KINDS = {
    "allreduce_": "all_reduce",
    "allgather_": "all_gather",
    "alltoall_": "all_to_all",
    "scatter_": "all_to_all",
    "broadcast_": "broadcast",
    "_allgather_base_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
}


class Counted(TorchDispatchMode):
    """Bytes that go into collectives, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "c10d":
            name = func._schema.name.split("::")[1]
            given = (
                args[0] if name in ("allreduce_", "broadcast_") else args[1]
            )  # else the first are places for what comes
            self.bytes[KINDS.get(name, name)] += sum(
                x.nbytes for x in tree_leaves(given) if isinstance(x, Tensor)
            )
        return func(*args, **(kwargs or {}))


def of_simclr(method: Any, batch: int) -> Counter[str]:
    d = method.config.projection
    return Counter(
        all_gather=2 * batch // world() * d,
        all_to_all=2 * batch * d,
        all_reduce=2 * statistics(method),
    )


def of_moco(method: Any, batch: int) -> Counter[str]:
    """Keys are gathered for the monitor and for the queue, and places for the shuffle."""
    views, d, config = method.keys_per_image, method.config.projection, method.config
    return Counter(
        all_gather=views * batch // world() * (2 * d + 1),
        all_reduce=views
        * (2 * statistics(method.query) + config.shuffle_groups * statistics(method.key)),
    )


def of_beta_vae(method: Any, batch: int) -> Counter[str]:
    return Counter(all_reduce=2 * method.code_prior.columns + 2 * statistics(method))


OWN = {"simclr": of_simclr, "moco": of_moco, "beta_vae": of_beta_vae}


def expected(name: str, method: Method, batch: int) -> Counter[str]:
    """The formulas: bytes of float32 by kind, for a global batch."""
    if world() == 1:
        return Counter()
    found = Counter(all_reduce=sum(p.numel() for p in method.parameters() if p.requires_grad))
    if sharded(
        method
        # what is gathered are shards of the same size everywhere: rows are rounded up to a multiple
        # of W
    ):
        shards = {p: -(-len(p) // world()) * p[:1].numel() for p in method.parameters()}
        trained = sum(shard for p, shard in shards.items() if p.requires_grad)
        found = Counter(all_gather=sum(shards.values()), reduce_scatter=world() * trained)
    found += OWN[name](method, batch)
    return Counter({kind: 4 * values for kind, values in found.items()})


def held(state: State) -> int:
    """Bytes of weights, buffers, the optimiser's state and as many for the gradients as for trained
    weights, on this process.
    """
    moments = [
        value
        for values in state.optimizer.state.values()
        for value in values.values()
        if isinstance(value, Tensor)
    ]
    trained = [p for p in state.method.parameters() if p.requires_grad]
    everything = [*state.method.parameters(), *state.method.buffers(), *moments, *trained]
    return sum((x.to_local() if isinstance(x, DTensor) else x).nbytes for x in everything)


def statistics(module: nn.Module) -> int:
    """Values that batch norms sum over processes in a forward pass: of each channel a sum and a sum
    of squares, and how many there are.
    """
    return sum(
        2 * part.num_features + 1 for part in module.modules() if isinstance(part, SyncBatchNorm)
    )


def count(options: argparse.Namespace) -> None:
    """Print a step of three methods beside the formulas, then what the losses need."""
    for name, more in (
        ("simclr", []),
        ("moco", [f"model.queue={options.queue}"]),
        ("beta_vae", []),
    ):
        overrides = [
            f"optim.batch_size={options.batch}",
            "data.sprites.train=4096",
            f"trainer.devices={os.environ.get('WORLD_SIZE', 1)}",
            "trainer.accelerator=cpu",
            f"trainer.strategy={options.strategy}",
            *more,
        ]
        report(name, config.read(CONFIGS / f"{name}_sprites.yaml", overrides))

    if "MALLOC_TRIM_THRESHOLD_" in os.environ:
        memory(options.codes, options.queue, 128)
    elif rank() == 0:
        print(
            "memory is not measured: start with MALLOC_TRIM_THRESHOLD_=0, or what is freed and"
            " kept would hide it"
        )


def memory(n: int, k: int, d: int) -> None:
    """Peak memory of the two losses for this process's part of n images, and what their matrices of
    all scores would take.
    """
    b = n // world()
    first, second = (F.normalize(torch.randn(b, d), dim=1).requires_grad_() for _ in range(2))
    keys = F.normalize(torch.randn(k, d), dim=1)
    losses = {
        f"NT-Xent, N = {n}": 2 * b * 2 * n,
        f"queue, N = {n}, K = {k}": b * (k + 1),
    }  # and how many scores

    def gradient(name: str) -> None:
        loss = (
            nt_xent(first, second, 0.1)
            if name.startswith("NT")
            else queue_loss(first, second, keys, 0.1)
        )
        torch.autograd.grad(loss, (first, second))

    for name, scores in losses.items():
        needed = peak(functools.partial(gradient, name), first.device)
        if rank() == 0:
            print(
                f"{name}, {world()} processes: {needed / 2**20:.1f} MiB at the peak, all scores"
                f" would be {4 * scores / 2**20:.1f} MiB"
            )


def report(name: str, run: config.RunConfig) -> None:
    """Count one step of a method, and print it on the first process."""
    fabric = start_fabric(run)
    source = open_source(run.data, "train", run.seed)
    state, model, optimizer = build_state(fabric, run, source.shape)
    order = train_sampler(
        len(source), run.optim.batch_size, run.seed, 0, STEPS, fabric.global_rank, fabric.world_size
    )
    steps = train(
        fabric, model, optimizer, state, source.batches(order, state.method.views), STEPS, STEPS
    )
    for _ in range(STEPS - 1):
        next(steps)
    with Counted() as counted:
        next(steps)
    formula = expected(name, state.method, run.optim.batch_size)
    for kind in sorted(counted.bytes.keys() | formula.keys()):
        fabric.print(
            f"{name}, {fabric.world_size} processes, {kind}: {counted.bytes[kind]:,} bytes"
            f" counted, {formula[kind]:,} by the formula"
        )
    if fabric.world_size == 1:
        fabric.print(f"{name}, 1 process: {sum(counted.bytes.values())} bytes")
    fabric.print(f"{name}, {fabric.world_size} processes, state: {held(state):,} bytes a process")
