"""The training loop, as a generator: it yields the metrics of each step, and the caller decides when to log, save and validate."""

from core.batch import Batch
from core.checkpoint import State
from core.optim import warmup_cosine

from collections.abc import Iterable, Iterator

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import Tensor


def train(
    fabric: Fabric,
    model: _FabricModule,
    optimizer: _FabricOptimizer,
    state: State,
    batches: Iterable[Batch],
    total_steps: int,
    steps_per_epoch: int,
) -> Iterator[dict[str, Tensor]]:
    """One optimiser step a batch. `model` and `optimizer` are `state.method` and `state.optimizer` as Fabric wraps them.

    Yields the metrics of the step that brought `state.step` to its present value, loss and learning rate among them.
    """
    config = state.run.optim
    model.train()
    for batch in batches:
        lr = config.scaled_lr * warmup_cosine(state.step, config.warmup_epochs * steps_per_epoch, total_steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        output = model(batch)
        fabric.backward(output.loss)
        if config.clip:
            fabric.clip_gradients(model, optimizer, max_norm=config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.method.after_step(state.step / total_steps)
        yield {"loss": output.loss.detach(), **output.metrics, "lr": torch.tensor(lr)}
