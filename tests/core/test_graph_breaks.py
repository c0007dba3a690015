"""No network of any method breaks into several graphs under `trainer.compile`, and the compiled
networks compute what the eager ones compute, also with batch norm over two processes.
"""

import copy
import math
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import nn

from core.batch import Batch
from core.method import Method
from core.networks.batchnorm import synchronise
from core.randomness import KeyedRNG
from core.run import checkpoint, config
from core.run.setup import compile_network, compiled_parts
from tests.front_door import ROOT, run_in_processes

ROWS = 8  # of all processes
RUNS = {
    "simclr_sprites": ("model.hidden=16", "model.projection=8"),
    "moco_sprites": ("model.hidden=16", "model.projection=8", "model.queue=64"),
    "beta_vae_sprites": ("model.width=8", "model.latent=4"),
    "vlae_mnist": ("model.width=32", "model.latent=4", "model.prior.width=16"),
    "vae_pixelcnn_mnist": ("model.width=32", "model.latent=4"),
}


class Shallow(nn.Sequential):
    """A backbone with one batch norm: statistics over processes are the same for each of them."""

    DIM = 16

    def __init__(self, shape: tuple[int, int, int]):
        layers = (nn.Conv2d(shape[0], 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU())
        super().__init__(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, self.DIM))


def built(name: str) -> Method:
    run = config.read(ROOT / f"configs/{name}.yaml", ["folder=none", *RUNS[name]])
    # a PixelCNN has a layer for each row of pixels, so its images are small
    shape = (3, 28, 28) if "sprites" in name else (1, 12, 12)
    return checkpoint.build_method(run, shape)


def batch(method: Method, number: int, world: int) -> Batch:
    """This process's rows of a batch of `ROWS` images."""
    mine = slice(number * ROWS // world, (number + 1) * ROWS // world)
    generator = torch.Generator().manual_seed(0)
    shape = (ROWS, *method.shape)
    views = [torch.randint(256, shape, generator=generator) for _ in range(method.views)]
    index = torch.arange(ROWS)[mine]
    views = tuple(view[mine].to(torch.uint8) for view in views)
    return Batch(views, index[:, None], index, KeyedRNG(0, 0, number, world))


def require_equal(method: Method, number: int, world: int) -> None:
    """A compiled step in one graph a network, equal to the eager one."""
    eager = copy.deepcopy(method)
    for network in compiled_parts(method):
        # fullgraph raises an error at a break; this backend starts the eager operators
        compile_network(network, backend="aot_eager", fullgraph=True)
    losses = []
    for one in (eager, method):
        loss = one(batch(one, number, world)).loss
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(*losses)
    for (name, own), other in zip(eager.named_parameters(), method.parameters(), strict=True):
        if own.requires_grad and own.grad is not None:
            torch.testing.assert_close(other.grad, own.grad, msg=name, rtol=1e-3, atol=1e-5)
    for own, other in zip(eager.buffers(), method.buffers(), strict=True):
        torch.testing.assert_close(other, own)


@pytest.mark.parametrize("name", RUNS)
def test_a_process_compiles_each_network_into_one_graph(name):
    require_equal(built(name), 0, 1)


def test_a_network_keeps_its_sizes_whatever_others_were_compiled_before():
    """A graph with variable sizes is slower, and its compilation takes several times as long."""
    graphs = []

    def kept(graph, given):
        graphs.append(given)
        return graph.forward

    for shape in ((8, 3, 2, 2), (8, 5), (6, 7)):
        network = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape[1:]), 4))
        compile_network(network, backend=kept, fullgraph=True)
        network(torch.randn(shape))
    assert len(graphs) == 3
    assert all(isinstance(x, torch.Tensor) for graph in graphs for x in graph)
    assert all(type(side) is int for graph in graphs for x in graph for side in x.shape)


def in_two(number: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    for name in ("simclr_sprites", "moco_sprites"):
        with patch("core.networks.backbones.SmallNet", Shallow):
            method = built(name)
        try:
            require_equal(synchronise(method), number, 2)
        except Exception as error:
            raise AssertionError(name) from error
    dist.destroy_process_group()


def test_two_processes_with_batch_norm_over_both_do_so_too(tmp_path):
    """Both methods in the same two processes, because the first compilation takes seconds."""
    run_in_processes(in_two, 2, str(tmp_path))
