"""Load an optimiser's moments from a checkpoint, with checks, because fused kernels do not check
shapes.

torch's format of an optimiser's state: {"state": {parameter number: {name: tensor}},
"param_groups": [{"params": [parameter numbers], option: value}]}.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError, shown
from core.run.sharding import shard_moments

# The tensors that each optimiser keeps per parameter, all of the parameter's shape.
MOMENTS = {
    "adamw": ("exp_avg", "exp_avg_sq"),
    "adamax": ("exp_avg", "exp_inf"),
    "sgd": ("momentum_buffer",),
    "lars": ("momentum_buffer",),
}
COUNTED = ("adamw", "adamax")  # these also keep the number of steps
AT_LEAST_ZERO = ("exp_avg_sq", "exp_inf")
MACHINE = ("foreach", "fused", "capturable", "differentiable")  # options that change no result


def load_moments(
    path: Path, held: Any, optimizer: torch.optim.Optimizer, name: str, step: int
) -> None:
    """Put a checkpoint's moments into an optimiser called `name`, after `step` steps.

    The options of parameter groups come from the config, and those in the file must be equal.
    Raises `UserError` for wrong keys, shapes, types, layouts or values.
    """
    what = f"{path}: its optimizer"
    if not (isinstance(held, dict) and set(held) == {"state", "param_groups"}):
        raise UserError(f"{what} should hold exactly the keys state and param_groups")
    own = optimizer.state_dict()["param_groups"]
    _check_groups(what, held["param_groups"], own)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not isinstance(held["state"], dict):
        raise UserError(f"{what}: state is not a mapping")
    state = {}
    for number, values in held["state"].items():
        if not (type(number) is int and 0 <= number < len(parameters)):
            raise UserError(
                f"{what} has moments of parameter {shown(number)}, which does not exist"
            )
        which = f"{what}: parameter {number}"
        state[number] = _checked(which, values, parameters[number], name, step)
    optimizer.load_state_dict(shard_moments({"state": state, "param_groups": own}, optimizer))


def _check_groups(what: str, held: Any, own: list[dict[str, Any]]) -> None:
    if not (isinstance(held, list) and len(held) == len(own)):
        raise UserError(f"{what} has other parameter groups than the config")
    for group, mine in zip(held, own, strict=True):
        if not isinstance(group, dict) or set(group) - set(MACHINE) != set(mine) - set(MACHINE):
            raise UserError(f"{what} has parameter groups with other options than the config")
        for key, value in mine.items():
            given = group.get(key, value)
            if key == "lr":  # the schedule sets it at each step
                if not (type(given) is float and 0 <= given < math.inf):
                    raise UserError(f"{what}: lr is {shown(given)}")
            elif key not in MACHINE and (
                _plain(given) != _plain(value) or type(given) is not type(value)
            ):
                raise UserError(
                    f"{what}: {key} is {shown(given)}, but {shown(value)} in the config"
                )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _checked(
    what: str, values: Any, parameter: Tensor, name: str, step: int
) -> dict[str, Tensor | None]:
    """Copies of a parameter's tensors (in a file, two names may share one tensor)."""
    names = {*MOMENTS[name], *(("step",) if name in COUNTED else ())}
    if not isinstance(values, dict) or (values and set(values) != names):
        found = ", ".join(map(shown, values)) if isinstance(values, dict) else shown(values)
        raise UserError(f"{what}: keeps {found}; {name} keeps {', '.join(sorted(names))}")
    made: dict[str, Tensor | None] = {}
    for key, value in values.items():
        if value is None and name in ("sgd", "lars"):  # the parameter had no gradient yet
            made[key] = None
            continue
        if not isinstance(value, Tensor):
            raise UserError(f"{what}: '{key}' is {shown(value)}, which is not a tensor")
        shape = torch.Size() if key == "step" else parameter.shape
        kinds = (torch.float32, torch.float64) if key == "step" else (parameter.dtype,)
        if value.shape != shape or value.dtype not in kinds:
            raise UserError(
                f"{what}: '{key}' should be {kinds[0]} {list(shape)}, found {value.dtype}"
                f" {list(value.shape)}"
            )
        if not value.isfinite().all() or (key in AT_LEAST_ZERO and (value < 0).any()):
            raise UserError(f"{what}: '{key}' holds values that training never produces")
        if key == "step" and not (0 <= value.item() <= step and value.item() % 1 == 0):
            raise UserError(f"{what}: took {value.item():g} steps, but the run took {step}")
        made[key] = value.clone()
    return made
