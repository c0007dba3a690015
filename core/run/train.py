"""The training loop as a generator of metrics; the caller logs, saves and validates."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.profiler import record_function

from core.batch import Batch
from core.distributed import in_parts
from core.run.checkpoint import State
from core.run.config import GRAPHS
from core.run.cuda_graph import GraphedStep
from core.run.fabric import Fabric, FabricModule, FabricOptimizer
from core.run.finite import GRADIENT
from core.run.optim import warmup_cosine


def train(
    fabric: Fabric,
    model: FabricModule,
    optimizer: FabricOptimizer,
    state: State,
    batches: Iterable[Batch],
    total_steps: int,
    steps_per_epoch: int,
) -> Iterator[dict[str, Tensor]]:
    """One optimiser step per batch. `model` and `optimizer` are Fabric's wrappers of `state.method`
    and `state.optimizer`.

    Yields the metrics of each step, with loss and learning rate, after `state.step` has increased.
    `core.run.profile` uses the names of the phases.
    """
    config = state.run.optim
    gradients = gradients_of(fabric, model, optimizer, state)
    model.train()
    batches = iter(batches)
    while True:
        with record_function("views"):
            batch = next(batches, None)
        if batch is None:
            return
        lr = config.scaled_lr * warmup_cosine(
            state.step, config.warmup_epochs * steps_per_epoch, total_steps
        )
        for group in optimizer.param_groups:
            group["lr"] = lr
        if state.run.trainer.compile in GRAPHS:  # this call imports the whole compiler
            # from now on, the graphs may overwrite the tensors of the previous step
            torch.compiler.cudagraph_mark_step_begin()
        metrics = gradients(batch)
        with record_function("optimizer"):
            watched = _clip(fabric, model, optimizer, state) if config.clip else {}
            optimizer.step()
            if not state.run.trainer.cuda_graph:  # a graph writes gradients to fixed addresses
                optimizer.zero_grad(set_to_none=True)
        state.step += 1
        with record_function("after_step"):
            state.method.after_step(state.step / total_steps)
        if state.run.trainer.compile in GRAPHS:
            # the metrics may lie in the memory of a graph, which the graph's next replay overwrites
            metrics = {name: x.detach().clone() for name, x in metrics.items()}
        yield metrics | {"lr": torch.tensor(lr)} | watched


def gradients_of(
    fabric: Fabric, model: FabricModule, optimizer: FabricOptimizer, state: State
) -> Callable[[Batch], dict[str, Tensor]]:
    """The function that leaves the gradients of a batch in the parameters, and returns the loss and
    the method's metrics.
    """

    def compute(batch: Batch) -> dict[str, Tensor]:
        with record_function("forward"):
            output = model(batch)
        with record_function("backward"):
            fabric.backward(output.loss)
        return {"loss": output.loss.detach(), **output.metrics}

    def from_none(batch: Batch) -> dict[str, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        return compute(batch)

    if state.run.trainer.cuda_graph:
        return GraphedStep(from_none, state.method, fabric.device)
    return compute


def _clip(
    fabric: Fabric, model: FabricModule, optimizer: FabricOptimizer, state: State
) -> dict[str, Tensor]:
    """Clip gradients to the norm `optim.clip`, without waiting for the device. Returns the norm
    before clipping, for `FiniteLosses`. With a gradient scaler (16-mixed) it returns nothing:
    gradients may overflow then, and the scaler skips such steps.
    """
    norm = fabric.clip_gradients(
        model, optimizer, max_norm=state.run.optim.clip, error_if_nonfinite=False
    )
    if norm is None or state.scaler is not None:
        return {}
    return {GRADIENT: (norm.full_tensor() if in_parts(norm) else norm).detach()}
