"""A number that is not finite ends a run with one line that names the step, and the check does not
wait for the device.
"""

import itertools
from pathlib import Path

import pytest
import torch

from contrastive.simclr import SimCLR
from core.data.datasets import open_source
from core.errors import UserError
from core.run import checkpoint, config
from core.run.finite import FiniteLosses
from core.run.setup import prepare, start_fabric
from core.run.train import train
from tests import in_process

SMALL = ["model.hidden=16", "model.projection=8"]


def test_the_first_loss_that_is_not_finite_is_named_with_the_last_metrics_before_it():
    losses = FiniteLosses(Path("last.ckpt"))
    for step, loss in enumerate([3.0, 2.5, float("inf"), float("nan"), 1.0], start=1):
        losses.add(step, {"loss": torch.tensor(loss), "lr": torch.tensor(0.1)})
        if step == 1:
            for _ in range(2):  # a second call of `look` for the same step raises again
                assert losses.look() == {"loss": 3.0, "lr": pytest.approx(0.1)}
    with pytest.raises(
        UserError,
        match=r"the loss is inf at step 3; .* step 2: loss 2\.5, lr 0\.1; last\.ckpt .*optim\.lr",
    ):
        losses.look()
    losses = FiniteLosses(None)
    losses.add(1, {"loss": torch.tensor(float("nan"))})
    with pytest.raises(
        UserError,
        match=r"^the loss is nan at step 1; no finite metrics were seen before; try a lower optim",
    ):
        losses.look()


class Spoiled(torch.autograd.Function):
    """The identity, but with a given gradient."""

    @staticmethod
    def forward(ctx, x, gradient):
        ctx.gradient = gradient
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return torch.full_like(grad, ctx.gradient), None


@pytest.mark.parametrize("gradient", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_named_if_it_is_clipped(gradient, tmp_path, monkeypatch):
    """The loss of step 4 is finite, but its gradient is not."""
    original, calls = SimCLR.project, itertools.count()

    def project(self, x):
        codes = original(self, x)
        # the first training call is that of the dry run
        spoiled = self.training and next(calls) == 4
        return Spoiled.apply(codes, gradient) if spoiled else codes

    monkeypatch.setattr(SimCLR, "project", project)
    answer = in_process.train("simclr", tmp_path / "run", "optim.clip=1", *SMALL)
    assert answer.code == 2 and len(answer.err.strip().splitlines()) == 1, answer
    # an infinite gradient becomes nan in the backward pass
    said = "the norm of the gradient is nan at step 4; the last finite metrics are those"
    assert f"{said} of step 3: loss" in answer.err and "last.ckpt holds an earlier" in answer.err
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert "gradient_norm" not in lines[0] and len(lines) == 1
    assert checkpoint.read(tmp_path / "run/last.ckpt")["step"] == 0


def test_clipping_does_not_wait_for_the_device(tmp_path, monkeypatch):
    """A step with clipping reads as many numbers from the device as a step without."""
    asked: list[int] = []
    item, truth = torch.Tensor.item, torch.Tensor.__bool__
    monkeypatch.setattr(torch.Tensor, "item", lambda x: asked.append(1) or item(x))
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda x: asked.append(1) or truth(x))
    waits = []
    for clip in (0, 1):
        run = config.read(
            in_process.CONFIGS / "simclr_sprites.yaml",
            [f"folder={tmp_path}", *in_process.SMALL, *SMALL, f"optim.clip={clip}"],
        )
        training = prepare(start_fabric(run), run, open_source(run.data, "train", 0))
        batches, total = list(training.batches(0, 2)), training.total
        ours = (training.fabric, training.model, training.optimizer, training.state)
        steps = train(*ours, batches, total, training.steps_per_epoch)
        next(steps)
        asked.clear()
        assert ("gradient_norm" in next(steps)) == bool(clip)
        waits.append(len(asked))
    assert waits[0] == waits[1]
