"""Fully sharded data parallelism (Zhao et al. 2023): weights, gradients and moments are divided
among processes.

torch's `fully_shard` gathers a block of a backbone while it computes, and all other parameters for
the whole step. In float32, results do not change. With bf16-mixed, the blocks are gathered in
bfloat16, which halves the bytes and rounds the weights of their batch norms to 8 significant bits;
gradients are summed in float32. A checkpoint holds whole tensors, so any number of processes can
read it.
"""

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.utils._pytree import tree_map

from core.distributed import in_parts
from core.method import Method
from core.networks.backbones import Backbone

if TYPE_CHECKING:
    from lightning_fabric.strategies import ModelParallelStrategy
    from torch.distributed.fsdp import MixedPrecisionPolicy

# A block with at least this many parameters is sharded alone. For smaller blocks, the
# additional messages would cost more than the saved memory is worth.
BLOCK = 2**20


def strategy(precision: str) -> "ModelParallelStrategy":
    """Fabric's strategy: `fabric.setup_module` shards a method. Build the optimiser after it."""
    from lightning_fabric.strategies import ModelParallelStrategy  # takes a second

    return ModelParallelStrategy(functools.partial(shard, policy=gathering(precision)))


def gathering(precision: str) -> "MixedPrecisionPolicy":
    """In which precision the parameters of blocks are gathered."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    if precision != "bf16-mixed":
        return MixedPrecisionPolicy()
    # autocast casts the inputs
    return MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)


def shard(method: Method, mesh: DeviceMesh, policy: "MixedPrecisionPolicy") -> Method:
    """Divide a method's parameters among all processes, in place. Buffers stay whole."""
    from torch.distributed.fsdp import fully_shard

    everyone = init_device_mesh(mesh.device_type, (mesh.size(),))
    backbones = [part for part in method.modules() if isinstance(part, Backbone)]
    parts = [part for backbone in backbones for part in backbone.modules()]
    containers = [part for part in parts if isinstance(part, nn.Sequential | nn.ModuleList)]
    # a ModuleList itself is never called, but its members are
    blocks = [b for part in containers for b in part if not isinstance(b, nn.ModuleList)]
    for block in reversed(blocks):  # inner blocks first
        if sum(p.numel() for p in block.parameters()) >= BLOCK:
            fully_shard(block, mesh=everyone, mp_policy=policy)
    fully_shard(method, mesh=everyone)
    return method


def gather_full(held: Any, keep: bool) -> Any:
    """A tree in which each sharded tensor is gathered whole on the CPU or, without `keep`, is None.
    All processes must call it.
    """

    def gathered(part: Any) -> Any:
        if not in_parts(part):
            return part
        full = part.full_tensor()
        return full.cpu() if keep else None

    return tree_map(gathered, held)


def shard_like(value: Tensor, own: Tensor) -> Tensor:
    """This process's part of a whole tensor, sharded like `own`; unchanged if `own` is whole."""
    if not in_parts(own):
        return value
    from torch.distributed.tensor import distribute_tensor

    placed = value.to(own.device)
    # src_data_rank None: nothing is sent
    return distribute_tensor(placed, own.device_mesh, own.placements, src_data_rank=None)


def shard_moments(held: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's whole state, with the moments sharded like their parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def part(value: Any, own: Tensor) -> Any:
        same = isinstance(value, Tensor) and value.shape == own.shape
        return shard_like(value, own) if same else value

    state = {
        number: {key: part(value, parameters[number]) for key, value in values.items()}
        for number, values in held["state"].items()
    }
    return held | {"state": state}


def sharded(method: Method) -> bool:
    """Whether processes share a method's parameters."""
    return any(map(in_parts, method.parameters()))


@torch.no_grad()
def assemble(method: Method, copy: Method) -> Method:
    """Fill `copy`, a method of the same config, with all weights of `method`. All processes must
    call it.
    """
    held = method.state_dict()
    copy = copy.to(next(iter(held.values())).device)
    copy.micro_batch = method.micro_batch  # larger batches do not fit into memory
    for key, place in copy.state_dict().items():
        value = held[key]
        place.copy_(value.full_tensor() if in_parts(value) else value)
    return copy.train(method.training)
