"""What a training step tells the method, and in which order an epoch reads its images."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from core.batch import Output
from core.data.source import eval_sampler, train_sampler
from core.run.loop import Loop
from core.run.optim import warmup_cosine
from core.run.train import train


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, number: float) -> Output:
        return Output(self.weight * number, {})


def test_a_method_hears_the_share_of_the_training_that_is_done():
    """After the last step it is 1, so a schedule of the method reaches its end; also after a
    resumption at step 2.
    """
    for first in (0, 2):
        heard, model = [], Line()
        state = SimpleNamespace(
            run=SimpleNamespace(
                optim=SimpleNamespace(scaled_lr=0.5, warmup_epochs=0.5, clip=0.0),
                trainer=SimpleNamespace(compile=False, cuda_graph=False),
            ),
            step=first,
            method=SimpleNamespace(after_step=heard.append),
        )
        fabric = SimpleNamespace(backward=lambda loss: loss.backward())
        optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.0), [1.0] * (8 - first)
        made = list(train(fabric, model, optimizer, state, batches, 8, 4))
        steps = range(first, 8)
        assert heard == [(step + 1) / 8 for step in steps] and state.step == 8
        # the rate of a step is that of the step's number before it: a warm-up of 0.5 * 4 steps
        rates = [0.5 * warmup_cosine(step, 2, 8) for step in steps]
        assert [step["lr"].item() for step in made] == pytest.approx(rates)
        assert model.weight.item() == pytest.approx(1 - sum(rates))


def test_every_epoch_has_an_order_of_its_own():
    orders = [
        torch.cat([index for index, _ in train_sampler(64, 16, 0, 4 * e, 4 * e + 4)])
        for e in range(4)
    ]
    for number, order in enumerate(orders):
        assert torch.equal(order.sort().values, torch.arange(64))
        for other in orders[number + 1 :]:  # two random orders agree at one place on average
            assert (order == other).sum() < 8
    (other_seed,) = ({index[0].item() for index, _ in train_sampler(64, 16, 1, 0, 4)},)
    assert other_seed != {index[0].item() for index, _ in train_sampler(64, 16, 0, 0, 4)}


def test_each_purpose_and_each_block_of_a_reading_has_numbers_of_its_own():
    drawn = [
        rng.uniform("any", len(index))
        for purpose in ("read", "pictures")
        for index, rng in eval_sampler(64, 0, 32, purpose=purpose)
    ]
    assert len(drawn) == 4
    for number, one in enumerate(drawn):
        assert not any(torch.equal(one, other) for other in drawn[number + 1 :])


def test_a_run_that_ends_within_an_epoch_is_validated_at_its_end(tmp_path):
    """7 steps of 4 in an epoch; the last one is due for everything, and is 1.75 epochs."""
    loop, written = object.__new__(Loop), []
    trainer = SimpleNamespace(log_every=3, validate_every=1, save_every=5)
    loop.state = SimpleNamespace(run=SimpleNamespace(trainer=trainer), step=7)
    loop.training = SimpleNamespace(total=7, steps_per_epoch=4)
    loop.folder = SimpleNamespace(append_metrics=written.append)
    due = {step: loop._due(step, False) for step in range(1, 8)}
    assert [step for step in due if due[step].logs] == [3, 6, 7]
    assert [step for step in due if due[step].validates] == [4, 7]
    assert [step for step in due if due[step].saves] == [5, 7] and loop._due(2, True).saves
    loop._write({"loss": 2.0})
    assert written == [{"step": 7, "epoch": 1.75, "loss": 2.0}]
    trainer.validate_every = 0
    assert not loop._due(7, False).validates
