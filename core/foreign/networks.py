"""Networks from three places: timm, with weights from a local file; a folder, which is an export or
has timm's hub layout; and a user's own function.
"""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from core.errors import UserError, nearest, shown
from core.foreign import fit, weights
from core.foreign.encoder import CROPS, INTERPOLATIONS, EncoderConfig
from core.networks.backbones import OWN, Backbone
from core.run.budget import OverBudget, budget
from core.trust import package_of

WEIGHTS, CONFIG = "model.safetensors", "config.json"
LARGEST = 2**20  # bytes of a config.json
SPARE = 2**28  # bytes that building a network may use in addition to four times its weights
# arguments that a config.json may give to timm: plain sizes, no files and no addresses
ARGUMENTS = {"img_size", "in_chans", "patch_size", "reg_tokens", "no_embed_class", "class_token"}
ARGUMENTS |= {"dynamic_img_size", "init_values", "global_pool", "embed_dim", "depth", "num_heads"}


class Network(NamedTuple):
    """A network with its input, and remarks for the user."""

    module: nn.Module
    config: EncoderConfig
    remarks: list[str]


def architecture(name: str) -> str:
    """A timm architecture, perhaps with the tag of its pretrained config, such as
    `resnet50.a1_in1k`. `UserError` for other names, which timm might fetch.
    """
    import timm  # takes seconds

    plain = name.partition(".")[0]
    if not timm.is_model(plain):
        raise UserError(
            f"--timm: timm has no {shown(name)}{nearest(plain, timm.list_models())}"[:300]
        )
    try:
        timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        if plain != name:
            tags = [tag for tag in timm.list_pretrained(plain) if "." in tag]
            raise UserError(f"--timm: timm has no {shown(name)}{nearest(name, tags)}") from None
    return name


def from_timm(
    name: str, path: Path | None, prefix: str | None, size: int, channels: int, **more: Any
) -> Network:
    """timm's network of that name, with the weights of a file or, without `path`, random weights.

    `channels`: those of the data. If the weights do not fit a network for 3 channels, a network for
    this number of channels is tried.
    """
    import timm  # takes seconds

    held = weights.read(path) if path else None
    sized: dict[str, Any] = {"img_size": (size, size)} if size and _has_size(name) else {}
    for number, count in enumerate(dict.fromkeys([3, channels])):
        try:
            module = timm.create_model(
                architecture(name), pretrained=False, num_classes=0, in_chans=count, **sized, **more
            )
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise UserError(f"--timm {name}: {str(error).splitlines()[0]}") from None
        config = _of_timm(name, module, size, count)
        if held is None or path is None:
            return Network(module, config, ["random weights: a baseline"])
        try:
            found = fit.load(module, name, path, held, prefix)
        except UserError:
            if number or channels == 3:
                raise
            continue
        return Network(module, config, found.remarks)
    raise AssertionError


def from_folder(folder: Path) -> Network:
    """The network of an exported folder, or of a folder of timm's hub layout."""
    import timm  # takes seconds

    facts = _facts(folder / CONFIG)
    path = folder / WEIGHTS
    held = weights.read(path)
    name, ours = facts["architecture"], facts.get("twobounds", {})
    if not isinstance(name, str) or not isinstance(ours, dict):
        raise UserError(f"{folder / CONFIG}: names no architecture")
    if ours.get("kind", "backbone") != "backbone":
        raise UserError(
            f"{folder}: is the export of a VAE, for use elsewhere; probe its checkpoint instead"
        )
    input_config = _input(folder / CONFIG, name, facts)
    side = input_config.size
    shape = (input_config.channels, side, side)
    stem = ours.get("stem", "imagenet")
    size = sum(tensor.nbytes for tensor in held.tensors.values())
    try:
        with budget(4 * size + SPARE, 10 * len(held.tensors) + 500):
            if name in OWN or stem == "cifar":
                module: nn.Module = Backbone(name, shape, "cifar").net
            else:
                extra = _arguments(folder / CONFIG, facts)
                module = timm.create_model(
                    architecture(name), pretrained=False, num_classes=0, **extra
                )
    except OverBudget as error:
        raise UserError(
            f"{folder / CONFIG}: asks for a network of {error}, but its weights are smaller"
        ) from None
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"{folder / CONFIG}: {str(error).splitlines()[0]}") from None
    loaded = fit.load(module, name, path, held, None)
    return Network(module, input_config, loaded.remarks)


def from_function(name: str, path: Path | None, prefix: str | None) -> Network:
    """What `package.module:function` of the user's own package returns, in evaluation mode."""
    module_name, _, function = name.partition(":")
    if not (function.isidentifier() and all(map(str.isidentifier, module_name.split(".")))):
        raise UserError(f"--torch: {shown(name)}: give package.module:function")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
        build = getattr(module, function)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UserError(f"--torch: {name} can not be imported ({error})") from None
    try:
        made = build()
    except Exception as error:  # the user's own code
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        raise UserError(f"--torch: {name}() raised {said}") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"--torch: {name} returned {type(made).__name__}, not a torch.nn.Module")
    remarks = [f"the network that {name}() returns"]
    if path is not None:
        remarks += fit.load(made, name, path, weights.read(path), prefix).remarks
    return Network(made, EncoderConfig(network=name), remarks)


def _has_size(name: str) -> bool:
    return package_of(name).startswith(("vit", "deit", "swin", "eva", "beit", "cait"))


def _of_timm(name: str, module: nn.Module, size: int, channels: int) -> EncoderConfig:
    """Input size, mean, deviation and resizing of timm's pretrained config."""
    import timm  # takes seconds

    facts = timm.data.resolve_model_data_config(module)
    mean, std = (_per_channel(facts[key], channels) for key in ("mean", "std"))
    side = size or int(facts["input_size"][-1])
    return EncoderConfig(name, side, channels, mean, std, **_resizing(facts))


def _resizing(facts: dict[str, Any]) -> dict[str, Any]:
    """Interpolation and crop of timm's config, with its defaults for what is missing."""
    import timm  # takes seconds

    kind, mode, crop = (facts.get(key) for key in ("interpolation", "crop_mode", "crop_pct"))
    return {
        "interpolation": kind if kind in INTERPOLATIONS else "bicubic",
        "crop": float(timm.data.DEFAULT_CROP_PCT if crop is None else crop),
        "crop_mode": mode if mode in CROPS else "center",
    }


def _per_channel(values: Any, channels: int) -> list[float]:
    """The numbers, if there is one per channel or only one; otherwise only their mean."""
    found = [float(value) for value in values]
    return found if len(found) in (1, channels) else [sum(found) / len(found)]


def _facts(path: Path) -> dict[str, Any]:
    """A config.json, as plain values."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("it is too long")
        facts = json.loads(path.read_bytes())
        if not isinstance(facts, dict) or "architecture" not in facts:
            raise ValueError("it names no architecture")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not the config.json of a network ({error})") from None
    return facts


def _input(path: Path, name: str, facts: dict[str, Any]) -> EncoderConfig:
    """The input that a config.json describes."""
    given = facts.get("pretrained_cfg", facts)
    try:
        channels, height, width = given["input_size"]
        if not (type(height) is type(channels) is int and 0 < height == width <= 4096):
            raise ValueError("its images are not square, or have no size")
        mean, std = ([float(x) for x in given[key]] for key in ("mean", "std"))
        return EncoderConfig(name, height, channels, mean, std, **_resizing(given))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its input can not be used ({error})") from None


def _arguments(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """The arguments for timm: plain sizes, so that nothing is opened or fetched."""
    given = facts.get("model_args") or {}
    if not isinstance(given, dict):
        raise UserError(f"{path}: its model_args are not a mapping")
    given = {key: value for key, value in given.items() if key != "num_classes"}
    for key, value in given.items():
        parts = value if isinstance(value, list) else [value]
        plain = all(type(part) in (int, float, bool) for part in parts) or key == "global_pool"
        if key not in ARGUMENTS or not plain:
            raise UserError(f"{path}: the argument {shown(key)}={shown(value)} is not allowed")
    return {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
