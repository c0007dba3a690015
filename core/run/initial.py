"""`init`: a new run that starts from the weights of a checkpoint, with a new optimiser."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.method import Method
from core.networks.backbones import Backbone
from core.run import checkpoint
from core.run.finite import not_finite
from core.run.folder import RunFolder, home_expanded


def start_from(method: Method, init: str) -> tuple[str, str]:
    """Load weights into a new method. Returns a line for the user and the file's sha256.

    If the file holds the weights of this method, with the same shapes, all of them are loaded,
    including a queue. Otherwise each backbone of the method is loaded from the first backbone of
    the file that fits; other layers, such as projection heads, keep their random weights. Raises
    `UserError` if no backbone fits. No code of the file is run, and its config is not used.
    """
    path = home_expanded(init, "init")
    path = RunFolder(path).last if path.is_dir() else path
    try:
        entries = checkpoint.read(path)
    except UserError as error:
        raise UserError(f"init: {error}") from None
    weights = {key: value for key, value in entries["method"].items() if _is_real(value)}
    own = method.state_dict()
    if len(weights) == len(entries["method"]) and _shapes(weights) == _shapes(own):
        checkpoint.load_weights(path, weights, method)
        return f"init: all {len(own)} weights from {path} (step {entries['step']})", entries.digest
    backbones = {name: m for name, m in method.named_modules() if isinstance(m, Backbone)}
    if not backbones:
        raise UserError(
            f"init: {path} holds weights of another method or other sizes, and {_kind(method)} has"
            f" no backbone that could be loaded alone ({_first_difference(weights, own)})"
        )
    taken = []
    for name, backbone in backbones.items():
        prefix = _load_backbone(path, weights, backbone)
        taken.append(f"{name} from {prefix}")
    rest = len(own) - sum(len(module.state_dict()) for module in backbones.values())
    said = f"init: {', '.join(taken)} of {path} (step {entries['step']})"
    return f"{said}; {rest} other weights are new", entries.digest


def _load_backbone(path: Path, weights: dict[str, Tensor], backbone: Backbone) -> str:
    """Load the first backbone that fits; returns its name in the file."""
    own = backbone.state_dict()
    first = next(iter(own))
    fits = [key.removesuffix(first) for key in weights if f".{key}".endswith(f".{first}")]
    nearest: dict[str, int] = {}
    for prefix in fits:
        given = {key: weights[f"{prefix}{key}"] for key in own if f"{prefix}{key}" in weights}
        same = {key for key, value in given.items() if value.shape == own[key].shape}
        nearest[prefix] = len(same)
        if len(same) == len(own):
            if bad := not_finite(given, {name for name, _ in backbone.named_buffers()}):
                raise UserError(f"init: {path}: in {prefix}: {bad[0]} is not finite")
            backbone.load_state_dict(given, strict=True)
            return prefix.rstrip(".") or "the top level"
    if not nearest:
        raise UserError(
            f"init: {path} holds no '{first}', the first weight of the model's backbone; set"
            " model.backbone to the network of the file"
        )
    prefix = max(nearest, key=lambda name: nearest[name])
    given = {key: weights[f"{prefix}{key}"] for key in own if f"{prefix}{key}" in weights}
    raise UserError(
        f"init: {path}: the nearest backbone '{prefix.rstrip('.')}' has {nearest[prefix]} of"
        f" {len(own)} weights ({_first_difference(given, own)}); set model.backbone, model.stem and"
        " the channels of the data as in the file"
    )


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor)


def _shapes(weights: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {key: (value.shape, value.dtype) for key, value in weights.items()}


def _first_difference(given: dict[str, Tensor], own: dict[str, Tensor]) -> str:
    """The first weight that is missing or has another shape, in words."""
    for key, value in own.items():
        if key not in given:
            return f"'{key}' is missing"
        if given[key].shape != value.shape:
            return f"'{key}' is {list(given[key].shape)}, but should be {list(value.shape)}"
    surplus = [key for key in given if key not in own]
    return f"'{surplus[0]}' is unexpected" if surplus else "other types of numbers"


def _kind(method: Method) -> str:
    return type(method).__name__
