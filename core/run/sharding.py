"""Weights, gradients and the optimiser's moments divided among processes: fully sharded data
parallelism (Zhao et al. 2023).

What is computed stays what it is. torch's `fully_shard` puts a block of a backbone together for as
long as it is at work, and everything else for a step. A checkpoint holds whole tensors: what W
processes wrote, any other number can read, sharded or not.
"""

from typing import Any

import torch
from lightning_fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from core.method import Method
from core.networks.backbones import Backbone

BLOCK = (
    2**20
    # parameters from which a block is sharded by itself; smaller ones would cost more messages than
    # they save memory
)


def strategy() -> ModelParallelStrategy:
    """Fabric's strategy that shards a method when `fabric.setup_module` is given it; its optimiser
    is to be built after that.
    """
    return ModelParallelStrategy(shard)


def shard(method: Method, mesh: DeviceMesh) -> Method:
    """Divide the parameters of a method among all processes, in place. Buffers stay whole: they are
    the same everywhere.
    """
    everyone = init_device_mesh(mesh.device_type, (mesh.size(),))
    parts = [
        part
        for backbone in method.modules()
        if isinstance(backbone, Backbone)
        for part in backbone.modules()
    ]
    blocks = [
        block for part in parts if isinstance(part, nn.Sequential | nn.ModuleList) for block in part
    ]
    blocks = [
        block for block in blocks if not isinstance(block, nn.ModuleList)
    ]  # a list is never called; its members are blocks, too
    for block in reversed(blocks):  # the innermost first
        if sum(p.numel() for p in block.parameters()) >= BLOCK:
            fully_shard(block, mesh=everyone)
    fully_shard(method, mesh=everyone)
    return method


def gather_full(held: Any, keep: bool) -> Any:
    """Nested dicts and lists with every sharded tensor put together on the CPU and, where not
    `keep`, forgotten again.

    To be called by all processes: each of them has a part of every tensor.
    """

    def gathered(part: DTensor) -> Tensor | None:
        full = part.full_tensor()
        return full.cpu() if keep else None

    return tree_map_only(DTensor, gathered, held)


def shard_like(value: Tensor, own: Tensor) -> Tensor:
    """This process's part of a whole tensor, sharded as `own` is, or the tensor itself where that
    is not.
    """
    if not isinstance(own, DTensor):
        return value
    return distribute_tensor(
        value.to(own.device), own.device_mesh, own.placements, src_data_rank=None
    )  # None: nothing is sent


def shard_moments(held: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimiser, whole as a checkpoint holds it, with every tensor of a parameter's
    shape divided as the parameter is.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def part(value: Any, own: Tensor) -> Any:
        return (
            shard_like(value, own)
            if isinstance(value, Tensor) and value.shape == own.shape
            else value
        )

    state = {
        number: {key: part(value, parameters[number]) for key, value in values.items()}
        for number, values in held["state"].items()
    }
    return held | {"state": state}


def sharded(method: Method) -> bool:
    """Whether processes share the parameters of a method."""
    return any(isinstance(p, DTensor) for p in method.parameters())


@torch.no_grad()
def assemble(method: Method, copy: Method) -> Method:
    """A copy, built as the method was, with all of its parameters and buffers, on its device. To be
    called by all processes.
    """
    held = method.state_dict()
    copy = copy.to(next(iter(held.values())).device)
    copy.micro_batch = (
        method.micro_batch
    )  # a batch that does not fit while training does not fit now
    for key, place in copy.state_dict().items():
        value = held[key]
        place.copy_(value.full_tensor() if isinstance(value, DTensor) else value)
    return copy.train(method.training)
