"""A sharded method, here in a group of one process: the modules that are blocks, and the whole copy
for validation.
"""

from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from core.run import checkpoint, config
from core.run.optim import build_optimizer
from core.run.sharding import gathering, shard, sharded

SHAPE = (3, 8, 8)


class Branches(nn.Module):
    """A backbone whose branches are in a list of lists, as in timm's HRNet."""

    DIM = 4

    def __init__(self, shape: tuple[int, int, int]):
        super().__init__()
        self.stages = nn.ModuleList(
            [nn.ModuleList([nn.Linear(3 * 8 * 8, self.DIM), nn.Linear(3 * 8 * 8, self.DIM)])]
        )

    def forward(self, x: Tensor) -> Tensor:
        return sum(branch(x.flatten(1)) for stage in self.stages for branch in stage)


@pytest.fixture
def state(request):
    policy = getattr(request, "param", MixedPrecisionPolicy())
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    values = {
        "method": "contrastive.simclr.SimCLR",
        "model": {"backbone": "small"},
        "optim": {"micro_batch": 2},
        "folder": "none",
    }
    run = config.from_dict(values, "test")
    try:
        with (
            patch("core.networks.backbones.SmallNet", Branches),
            patch("core.run.sharding.BLOCK", 1),
        ):
            method = checkpoint.build_method(run, SHAPE)
            method.micro_batch = run.optim.micro_batch
            shard(method, init_device_mesh("cpu", (1, 1)), policy)
            yield checkpoint.State(run, method, build_optimizer(method, run.optim))
    finally:
        dist.destroy_process_group()


def test_blocks_are_the_called_modules_and_not_the_lists_of_them(state):
    (stage,) = state.method.backbone.net.stages
    assert not isinstance(stage, FSDPModule) and all(
        isinstance(branch, FSDPModule) for branch in stage
    )
    assert state.method.embed(torch.rand(5, *SHAPE)).shape == (5, Branches.DIM)


def test_the_whole_copy_computes_the_same_in_as_small_parts(state):
    images, copy = torch.rand(5, *SHAPE), checkpoint.whole_method(state)
    assert sharded(state.method) and not sharded(copy)
    torch.testing.assert_close(copy.embed(images), state.method.embed(images))
    assert copy.micro_batch == state.method.micro_batch == 2


@pytest.mark.parametrize(
    "state, there",
    [(gathering("bf16-mixed"), torch.bfloat16), (gathering("32-true"), torch.float32)],
    indirect=["state"],
)
def test_blocks_are_gathered_in_the_precision_in_which_they_compute(state, there):
    """Gradients and what is kept stay in float32."""
    seen = {}
    for name, part in state.method.named_modules():
        if isinstance(part, FSDPModule):
            part.register_forward_hook(
                lambda part, given, out, name=name: seen.update(
                    {name: {p.dtype for p in part.parameters(recurse=False)}}
                )
            )
    with torch.autocast("cpu", torch.bfloat16):
        state.method.embed(torch.rand(5, *SHAPE)).float().square().sum().backward()
    blocks = {dtype for name, dtypes in seen.items() if name for dtype in dtypes}
    assert blocks == {there}
    kept = {p.dtype for p in state.method.parameters()}
    summed = {p.grad.dtype for p in state.method.parameters() if p.grad is not None}
    assert kept == summed == {torch.float32}
