"""A slow copy of an encoder, which makes the targets of BYOL and MoCo v3."""

import copy
import math

import torch
from torch import nn


def slow_copy(encoder: nn.ModuleDict) -> nn.ModuleDict:
    """A copy of an encoder that no gradient changes."""
    return copy.deepcopy(encoder).requires_grad_(False)


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, momentum: float, progress: float) -> None:
    """Move the copy by 1 - m towards the encoder; m rises from `momentum` to 1 by half a cosine."""
    m = 1 - (1 - momentum) * (math.cos(math.pi * progress) + 1) / 2
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 1 - m)


def require_share(config: object, key: str) -> None:
    """Raise `ValueError` unless a field lies in [0, 1]."""
    if not 0 <= getattr(config, key) <= 1:
        raise ValueError(f"{key}: must be in [0, 1], got {getattr(config, key)}")
