"""The measurements of `twobounds scaling`: the bytes that go into the collectives (such as
all_reduce) of a training step, and the peak memory of a loss.
"""

import argparse
import functools
import os
from collections import Counter
from collections.abc import Callable
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

STEPS = 3  # only the last one is counted, because DDP arranges its buckets in the first two
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
            # the first argument of other collectives is the place of the result
            given = args[0] if name in ("allreduce_", "broadcast_") else args[1]
            tensors = (x for x in tree_leaves(given) if isinstance(x, Tensor))
            self.bytes[KINDS.get(name, name)] += sum(x.nbytes for x in tensors)
        return func(*args, **(kwargs or {}))


def of_simclr(method: Any, batch: int) -> Counter[str]:
    d, reduced = method.config.projection, 2 * statistics(method)
    gathered = 2 * batch // world() * d
    return Counter(all_gather=gathered, all_to_all=2 * batch * d, all_reduce=reduced)


def of_moco(method: Any, batch: int) -> Counter[str]:
    """Keys are gathered twice (for the monitor and for the queue). For the shuffle, indices are
    gathered.
    """
    views, config = method.keys_per_image, method.config
    gathered = views * batch // world() * (2 * config.projection + 1)
    of_key = config.shuffle_groups * statistics(method.key)
    return Counter(all_gather=gathered, all_reduce=views * (2 * statistics(method.query) + of_key))


def of_beta_vae(method: Any, batch: int) -> Counter[str]:
    return Counter(all_reduce=2 * method.code_prior.columns + 2 * statistics(method))


OWN = {"simclr": of_simclr, "moco": of_moco, "beta_vae": of_beta_vae}


def expected(name: str, method: Method, batch: int) -> Counter[str]:
    """Bytes of float32 by kind of collective, from the formulas of docs/scaling.md."""
    if world() == 1:
        return Counter()
    found = Counter(all_reduce=sum(p.numel() for p in method.parameters() if p.requires_grad))
    if sharded(method):  # shards have one size: rows are rounded up to a multiple of W
        shards = {p: -(-len(p) // world()) * p[:1].numel() for p in method.parameters()}
        trained = sum(shard for p, shard in shards.items() if p.requires_grad)
        found = Counter(all_gather=sum(shards.values()), reduce_scatter=world() * trained)
    found += OWN[name](method, batch)
    return Counter({kind: 4 * values for kind, values in found.items()})


def held(state: State) -> int:
    """Bytes of weights, buffers, the optimiser's state and gradients on this process."""
    states = state.optimizer.state.values()
    moments = [x for values in states for x in values.values() if isinstance(x, Tensor)]
    trained = [p for p in state.method.parameters() if p.requires_grad]
    everything = [*state.method.parameters(), *state.method.buffers(), *moments, *trained]
    return sum((x.to_local() if isinstance(x, DTensor) else x).nbytes for x in everything)


def statistics(module: nn.Module) -> int:
    """Values that batch norms sum over processes in a forward pass: a sum and a sum of squares for
    each channel, and a count.
    """
    norms = (part for part in module.modules() if isinstance(part, SyncBatchNorm))
    return sum(2 * norm.num_features + 1 for norm in norms)


def count(options: argparse.Namespace) -> None:
    """Print the bytes of a step of three methods, with the formulas, then the memory of the
    losses.
    """
    for name in OWN:
        overrides = [
            f"optim.batch_size={options.batch}",
            "data.sprites.train=4096",
            f"trainer.devices={os.environ.get('WORLD_SIZE', 1)}",
            "trainer.accelerator=cpu",
            f"trainer.strategy={options.strategy}",
        ]
        overrides += [f"model.queue={options.queue}"] if name == "moco" else []
        report(name, config.read(CONFIGS / f"{name}_sprites.yaml", overrides))

    if "MALLOC_TRIM_THRESHOLD_" in os.environ:
        memory(options.codes, options.queue, 128)
    elif rank() == 0:
        print(
            "memory is not measured: start with MALLOC_TRIM_THRESHOLD_=0, so that freed memory is"
            " returned to the system"
        )


def memory(n: int, k: int, d: int) -> None:
    """Print the peak memory of two losses for this process's part of n images, and the size of all
    scores.
    """
    b = n // world()
    first, second = (F.normalize(torch.randn(b, d), dim=1).requires_grad_() for _ in range(2))
    keys = F.normalize(torch.randn(k, d), dim=1)
    losses: dict[str, tuple[int, Callable[[], Tensor]]] = {  # how many scores, and the loss
        f"NT-Xent, N = {n}": (4 * b * n, lambda: nt_xent(first, second, 0.1)),
        f"queue, N = {n}, K = {k}": (b * (k + 1), lambda: queue_loss(first, second, keys, 0.1)),
    }
    for name, (scores, loss) in losses.items():
        gradient = functools.partial(
            lambda loss: torch.autograd.grad(loss(), (first, second)), loss
        )
        needed = f"{peak(gradient, first.device) / 2**20:.1f} MiB at the peak"
        if rank() == 0:
            every = f"all scores would be {4 * scores / 2**20:.1f} MiB"
            print(f"{name}, {world()} processes: {needed}, {every}")


def report(name: str, run: config.RunConfig) -> None:
    """Count a step of one method, and print it on the first process."""
    fabric = start_fabric(run)
    source = open_source(run.data, "train", run.seed)
    state, model, optimizer = build_state(fabric, run, source.shape)
    place = fabric.global_rank, fabric.world_size
    order = train_sampler(len(source), run.optim.batch_size, run.seed, 0, STEPS, *place)
    batches = source.batches(order, state.method.views)
    steps = train(fabric, model, optimizer, state, batches, STEPS, STEPS)
    for _ in range(STEPS - 1):
        next(steps)
    with Counted() as counted:
        next(steps)
    formula = expected(name, state.method, run.optim.batch_size)
    for kind in sorted(counted.bytes.keys() | formula.keys()):
        found = f"{counted.bytes[kind]:,} bytes counted, {formula[kind]:,} by the formula"
        fabric.print(f"{name}, {fabric.world_size} processes, {kind}: {found}")
    if fabric.world_size == 1:
        fabric.print(f"{name}, 1 process: {sum(counted.bytes.values())} bytes")
    fabric.print(f"{name}, {fabric.world_size} processes, state: {held(state):,} bytes a process")
