"""Find the part of a weights file that fits a network, by keys and shapes, and load it strictly.

Files keep a backbone under a prefix, such as `state_dict.module.encoder_q.` (MoCo) or
`teacher.backbone.` (DINO). There is no list of known prefixes. Instead, each prefix of the file is
tried, and the network's keys that have a tensor of the right shape under it are counted. The prefix
with the largest count is the fit.
"""

import difflib
import functools
import re
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.foreign.weights import Weights
from core.run.finite import not_finite

# if several prefixes fit, those with these words come last: they name momentum copies and students
COPIES = re.compile(r"encoder_k|momentum|(^|\.)key\.|student|(^|[._])ema|target")
COUNTS = "num_batches_tracked"  # of batch norm; not used in evaluation, and absent in old files
COMMON: tuple[str, ...] = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
COMMON += tuple(f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large"))
COMMON += ("vit_small_patch8_224", "vit_base_patch8_224", "vit_small_patch14_dinov2")
COMMON += ("vit_base_patch14_dinov2", "vit_large_patch14_dinov2")
NEIGHBOURS = 8  # networks with similar names that are compared, for an error message


class Fit(NamedTuple):
    """A network's tensors under one prefix of a file, and what does not fit."""

    prefix: str
    tensors: dict[str, Tensor]  # the network's key -> its tensor in the file
    missing: list[str]  # the network's keys
    other_shapes: list[str]
    surplus: list[str]  # keys that only the file has, in parts that the network has, too
    dropped: list[str]  # other keys under the prefix: the head
    converted: bool = False  # by timm's own conversion of published files

    @property
    def whole(self) -> bool:
        return not (self.missing or self.other_shapes or self.surplus)


class Words(NamedTuple):
    """Parts of messages that say what a user can change."""

    # the words before the name of another timm network that fits; empty = no search for one
    network: str = "--timm "
    others: str = "choose by --prefix"  # what to do with other parts that fit
    remedy: str = ""  # the end of a message about weights that do not fit


class Loaded(NamedTuple):
    """The prefix of the loaded weights, and remarks for the user."""

    prefix: str
    remarks: list[str]


PROBE = Words()


def load(
    network: nn.Module,
    name: str,
    path: Path,
    weights: Weights,
    prefix: str | None,
    words: Words = PROBE,
) -> Loaded:
    """Load the weights of a file into a network called `name`; `UserError` unless each of its keys
    fits. `prefix`: the part of the file, or None to find it.
    """
    own = network.state_dict()
    fits = candidates(network, own, weights.tensors)
    if prefix is not None and prefix not in {fit.prefix for fit in fits}:
        near = f"; the nearest fit: {_said(fits[0], own)}" if fits else ""
        raise UserError(f"{path}: holds no part of {name} under --prefix '{prefix}'{near}")
    if prefix is not None:
        fits = [fit for fit in fits if fit.prefix == prefix]
    if not fits:
        raise UserError(
            f"{path}: none of its keys is a key of {name}; its first keys are"
            f" {', '.join(map(repr, list(weights.tensors)[:3]))}{_suggested(name, weights, words)}"
        )
    fit = fits[0] if fits[0].whole else _converted(network, own, fits[0], weights.tensors)
    if not fit.whole:
        near = _suggested(name, weights, words)
        raise UserError(f"{path}: does not hold the weights of {name}; {_said(fit, own)}{near}")
    ready = {
        key: _in_precision(path, key, fit.tensors.get(key), value) for key, value in own.items()
    }
    if bad := not_finite(ready, {key for key, _ in network.named_buffers()}):
        raise UserError(f"{path}: its {bad[0]} is not finite")
    network.load_state_dict(ready, strict=True)
    return Loaded(fit.prefix, _remarks(fit, fits, own, words))


def candidates(network: nn.Module, own: dict[str, Tensor], tensors: dict[str, Tensor]) -> list[Fit]:
    """The fits of a network to a file, the best first. The parts of the network are found by their
    names or, as in `nn.Sequential(*network.children())`, by their numbers.
    """
    numbers = {child: str(number) for number, (child, _) in enumerate(network.named_children())}
    numbered = {key: ".".join([numbers.get(first := key.split(".")[0], first), *key.split(".")[1:]])
                for key in own}  # fmt: skip
    heads = _heads(network)
    found: list[tuple[tuple[int, ...], Fit]] = []
    for names in ({key: key for key in own}, numbered):
        back = {there: key for key, there in names.items()}
        shared: Counter[str] = Counter()
        for key in tensors:
            parts = key.split(".")
            for start in range(len(parts)):
                if ".".join(parts[start:]) in back:
                    shared["".join(f"{part}." for part in parts[:start])] += 1
        for prefix, _ in shared.most_common(20):
            fit = _fit(prefix, names, own, tensors, heads)
            right = len(fit.tensors) - len(fit.other_shapes)
            copy = bool(COPIES.search(prefix))
            found.append(((-fit.whole, -right, copy, -len(fit.tensors)), fit))
    found.sort(key=lambda pair: pair[0])
    return [fit for _, fit in found]


def _heads(network: nn.Module) -> tuple[str, ...]:
    """The prefixes of the keys of timm's classifier, which may lie inside a part: "head.fc."."""
    named = (getattr(network, "default_cfg", None) or {}).get("classifier") or ()
    return tuple(f"{name}." for name in ((named,) if isinstance(named, str) else named))


def _fit(
    prefix: str,
    names: dict[str, str],
    own: dict[str, Tensor],
    tensors: dict[str, Tensor],
    heads: tuple[str, ...],
) -> Fit:
    under = {key[len(prefix) :]: key for key in tensors if key.startswith(prefix)}
    there = {key: tensors[under[name]] for key, name in names.items() if name in under}
    missing = [key for key in own if key not in there and not key.endswith(COUNTS)]
    others = [key for key, value in there.items() if value.shape != own[key].shape]
    firsts, known = {name.split(".")[0] for name in names.values()}, set(names.values())
    rest = [name for name in under if name not in known]
    surplus = [name for name in rest if name.split(".")[0] in firsts and not name.startswith(heads)]
    left = set(surplus)
    dropped = [name for name in rest if name not in left]
    return Fit(prefix, there, missing, others, surplus, dropped)


def _converted(
    network: nn.Module, own: dict[str, Tensor], fit: Fit, tensors: dict[str, Tensor]
) -> Fit:
    """The fit after timm's own conversion of published files, such as DINOv2's, if it has one."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None or not type(network).__module__.startswith("timm."):
        return fit
    under = {key[len(fit.prefix) :]: x for key, x in tensors.items() if key.startswith(fit.prefix)}
    try:
        made = convert(dict(under), network)
    except Exception:  # the file is not what the conversion expects
        return fit
    held = {key: value for key, value in made.items() if isinstance(value, Tensor)}
    found = _fit("", {key: key for key in own}, own, held, _heads(network))
    return found._replace(prefix=fit.prefix, converted=True)


def _in_precision(path: Path, key: str, given: Tensor | None, own: Tensor) -> Tensor:
    """A tensor in the network's precision."""
    if given is None:
        return torch.zeros_like(own)  # a count of batches
    if given.is_floating_point() != own.is_floating_point():
        raise UserError(f"{path}: '{key}' is {given.dtype}, but should be {own.dtype}")
    return given.to(own.dtype)


def _said(fit: Fit, own: dict[str, Tensor]) -> str:
    """The fit in words, with the first key that is wrong."""
    where = f"under '{fit.prefix}'" if fit.prefix else "without a prefix"
    right = len(fit.tensors) - len(fit.other_shapes)
    parts = [f"{where}, {right} of {len(own)} keys fit"]
    if fit.missing:
        parts.append(f"{len(fit.missing)} are missing (first: '{fit.missing[0]}')")
    if fit.other_shapes:
        key = fit.other_shapes[0]
        there, here = (list(x.shape) for x in (fit.tensors[key], own[key]))
        parts.append(f"'{key}' is {there} there and {here} in the network")
    if fit.surplus:
        parts.append(f"the network lacks {len(fit.surplus)} (first: '{fit.surplus[0]}')")
    return ", ".join(parts)


def _remarks(fit: Fit, fits: list[Fit], own: dict[str, Tensor], words: Words) -> list[str]:
    where = f"the prefix '{fit.prefix}'" if fit.prefix else "no prefix"
    lines = [f"{len(own)} tensors with {where}"]
    if fit.converted:
        lines.append("keys or sizes converted as timm converts published files of this network")
    if fit.dropped:
        heads = list(dict.fromkeys(name.split(".")[0] for name in fit.dropped))
        more = f" and {len(heads) - 5} more" if len(heads) > 5 else ""
        lines.append(f"left out as head: {', '.join(heads[:5])}{more}")
    others = [f"'{other.prefix}'" for other in fits if other.whole and other.prefix != fit.prefix]
    if others:
        lines.append(f"{', '.join(others[:3])} would fit, too: {words.others}")
    return lines


@functools.cache
def _skeleton(name: str) -> nn.Module:
    """A network of timm without values. It is only read, so it is made once."""
    import timm  # takes seconds

    with torch.device("meta"):
        made: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    return made


def _suggested(name: str, weights: Weights, words: Words) -> str:
    """Another timm network that the file fits, and what else to do, in words."""
    if not words.network:
        return words.remedy
    import timm  # takes seconds

    near = difflib.get_close_matches(name, timm.list_models(), NEIGHBOURS, 0.5)
    for other in dict.fromkeys([*COMMON, *near]):
        if other == name or other not in timm.list_models():
            continue
        network = _skeleton(other)
        if any(fit.whole for fit in candidates(network, network.state_dict(), weights.tensors)[:3]):
            return f"; the file fits {words.network}{other}{words.remedy}"
    return words.remedy
