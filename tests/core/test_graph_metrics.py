"""Metrics of a step stay unchanged when the graph that made them is replayed."""

from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch import nn

from core.batch import Output
from core.run.train import train


class Replayed(nn.Module):
    """Acts like a CUDA graph: each call writes its outputs into the memory of the previous call."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.rate = torch.zeros(())

    def forward(self, number: float) -> Output:
        self.rate.fill_(number)
        return Output(self.weight * number, {"rate": self.rate})


@pytest.mark.parametrize("mode, kept", [("reduce-overhead", [1.0, 2.0]), (False, [2.0, 2.0])])
def test_metrics_of_replayed_graphs_are_copied(mode, kept):
    model = Replayed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    state = SimpleNamespace(
        run=SimpleNamespace(
            optim=SimpleNamespace(scaled_lr=0.0, warmup_epochs=0, clip=0.0),
            trainer=SimpleNamespace(compile=mode, cuda_graph=False),
        ),
        step=0,
        method=SimpleNamespace(after_step=lambda progress: None),
    )
    fabric = SimpleNamespace(backward=lambda loss: loss.backward())
    with mock.patch.object(torch.compiler, "cudagraph_mark_step_begin"):
        held = list(train(fabric, model, optimizer, state, [1.0, 2.0], 2, 1))
    assert [metrics["rate"].item() for metrics in held] == kept
    assert not any(metrics["loss"].requires_grad for metrics in held)
