"""A sharded method, here in a group of one process: the modules that are blocks, and the whole copy
for validation.
"""

from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule

from core.run import checkpoint, config
from core.run.optim import build_optimizer
from core.run.sharding import shard, sharded

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
def state():
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
            shard(method, init_device_mesh("cpu", (1, 1)))
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
