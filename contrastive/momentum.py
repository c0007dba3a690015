"""A slow copy of an encoder, which makes the keys of MoCo and MoCo v3 and the targets of BYOL."""

import copy
import math

import torch
from torch import nn


def slow_copy(encoder: nn.ModuleDict) -> nn.ModuleDict:
    """A copy of an encoder that no gradient changes."""
    return copy.deepcopy(encoder).requires_grad_(False)


@torch.no_grad()
def follow(
    slow: nn.Module, fast: nn.Module, momentum: float, progress: float, end: float = 1.0
) -> None:
    """slow <- m slow + (1 - m) fast, for each weight. Over the training, m goes from `momentum` to
    `end` along half a cosine.
    """
    m = end - (end - momentum) * (math.cos(math.pi * progress) + 1) / 2
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 1 - m)
