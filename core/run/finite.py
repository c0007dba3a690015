"""Stop a run whose losses or weights are not finite, before it can be saved."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError

TRY = "try another folder=… with a lower optim.lr, a longer optim.warmup_epochs or optim.clip=1"
GRADIENT = "gradient_norm"  # a metric of steps with clipped gradients: watched, but not logged
WATCHED = {"loss": "the loss", GRADIENT: "the norm of the gradient"}
MAX_UNSEEN = 200  # most steps between two checks; a check waits for the device


class FiniteLosses:
    """Collects the metrics of steps; `look` checks them. Only `look` waits for the device."""

    def __init__(self, checkpoint: Path | None):
        # the checkpoint from which a failed run can continue; None if there is none yet
        self.checkpoint = checkpoint
        self.unseen: list[tuple[int, dict[str, Tensor]]] = []
        self.newest: dict[str, float] = {}
        self.good = "no finite metrics were seen before"

    def add(self, step: int, metrics: dict[str, Tensor]) -> None:
        """Add the metrics of a step, which may be on any device."""
        self.unseen.append((step, metrics))
        if len(self.unseen) == MAX_UNSEEN:
            self.look()

    def look(self) -> dict[str, float]:
        """The newest step's metrics as numbers, without those that are only watched.

        Raises `UserError` at the first step whose loss or gradient is not finite.
        """
        if not self.unseen:
            return self.newest
        names = [name for name in WATCHED if name in self.unseen[0][1]]
        columns = [torch.stack([step[name].detach() for _, step in self.unseen]) for name in names]
        watched = torch.stack([column.double() for column in columns], 1).cpu()  # [steps, names]
        bad = (~watched.isfinite()).nonzero().tolist()
        first = bad[0][0] if bad else len(watched)
        if first:
            step, metrics = self.unseen[first - 1]
            values = {name: x.item() for name, x in metrics.items() if name != GRADIENT}
            said = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            self.good = f"the last finite metrics are those of step {step}: {said}"
        if bad:
            column = bad[0][1]
            raise UserError(
                f"{WATCHED[names[column]]} is {watched[first, column].item()} at step"
                f" {self.unseen[first][0]}; {self.good}; {self._way_back()}"
            )
        self.unseen.clear()
        self.newest = values
        return values

    def _way_back(self) -> str:
        if self.checkpoint is None:
            return TRY.replace("another folder=… with ", "")
        return (
            f"{self.checkpoint} holds an earlier step with finite numbers, but resuming it would"
            f" repeat this error: {TRY}"
        )


def not_finite(weights: dict[str, Tensor], buffers: set[str]) -> list[str]:
    """The weights with NaN or infinite numbers. Buffers other than running statistics may hold
    infinite numbers (masks), but no NaN.
    """
    masks = {name for name in buffers if not name.endswith(("running_mean", "running_var"))}
    return [
        f"weight '{name}'"
        for name, value in weights.items()
        if not (~value.isnan() if name in masks else value.isfinite()).all()
    ]


def require_finite(
    path: Path, step: int, weights: dict[str, Tensor], buffers: set[str], optimizer: dict[str, Any]
) -> None:
    """Raise `UserError` if a weight (`not_finite`) or a number of the optimiser is not finite."""
    bad = not_finite(weights, buffers)
    for number, values in optimizer["state"].items():
        bad += [
            f"the optimizer's '{name}' of parameter {number}"
            for name, value in values.items()
            if isinstance(value, Tensor) and not value.isfinite().all()
        ]
    if bad:
        raise UserError(
            f"{bad[0]} is not finite at step {step}; nothing was saved and {path} is unchanged:"
            f" {TRY}"
        )
