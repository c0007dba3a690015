"""A dry run: one step and a short validation before anything is written. An error that would come
later, perhaps after an epoch, comes now, in one line.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from core.distributed import in_parts
from core.errors import UserError
from core.run.checkpoint import whole_method
from core.run.explain import in_one_line
from core.run.finite import FiniteLosses
from core.run.setup import Training
from core.run.train import train
from core.run.validation import Validation


def dry_run(training: Training, validation: Validation) -> None:
    """Train on the first batch in the run's precision, rehearse a validation on few images
    (`Validation.rehearse`), and restore everything bit for bit. Raises `UserError` if something
    fails.

    All processes must call it before the first step, because the optimiser must be new.
    """
    fabric, state = training.fabric, training.state
    explained = functools.partial(in_one_line, state.run, training.source.shape, fabric.world_size)
    with _restored(training):
        with explained("a training step"):
            batches = training.batches(0, 1)
            losses = FiniteLosses(None)
            for metrics in train(
                fabric,
                training.model,
                training.optimizer,
                state,
                batches,
                training.total,
                training.steps_per_epoch,
            ):
                losses.add(state.step, metrics)
            losses.look()
        eager = torch.compiler.set_stance("force_eager")
        with explained("a validation"), eager, torch.no_grad():
            method = whole_method(state)
            validates = bool(state.run.trainer.validate_every)
            scores = validation.rehearse(method, state.step) if validates else {}
            if fabric.is_global_zero:
                validation.figures(method)
                if scores and (said := validation.said_of_criterion(method, scores)):
                    print(said, flush=True)
        name = validation.criterion(state.method, scores)
        if scores and name not in scores:
            raise UserError(
                f"method: {state.run.method} is judged by '{state.method.criterion}', but a"
                f" validation measures only {', '.join(scores)}; change its `criterion`"
            )


@contextmanager
def _restored(training: Training) -> Iterator[None]:
    """At exit, restore weights, buffers, attributes, optimiser, scaler and torch's generators."""
    state = training.state
    method, optimizer, scaler = state.method, state.optimizer, state.scaler
    tensors = [*(x.detach() for x in method.parameters()), *method.buffers()]
    held = [(_local(x), _local(x).to("cpu", copy=True)) for x in tensors]
    plain = {
        name: value
        for name, value in vars(method).items()
        if value is None or isinstance(value, bool | int | float | str)
    }
    rates = [dict(group) for group in optimizer.param_groups]
    scale = scaler.state_dict() if scaler else {}
    device = training.fabric.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
    with torch.no_grad():
        for own, kept in held:
            own.copy_(kept)
    vars(method).update(plain)
    optimizer.state.clear()
    for group, before in zip(optimizer.param_groups, rates, strict=True):
        group.update(before)
    if scaler:
        scaler.load_state_dict(scale)
    state.step = 0


def _local(x: Tensor) -> Tensor:
    return x.to_local() if in_parts(x) else x
