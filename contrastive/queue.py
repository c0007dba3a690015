"""MoCo's queue of keys: a ring buffer of any length K that takes batches of any size.

K = slots, B = keys of one step (of all processes), D = dimensions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class KeyQueue(nn.Module):
    """Holds the last K keys; a new key overwrites the oldest one. All state is in buffers, so
    checkpoints contain it. At the start the slots hold random unit vectors; `filled` counts the
    real keys.
    """

    keys: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, length: int, dim: int):
        super().__init__()
        keys = torch.randn(length, dim)
        # in place, because a long queue is the largest tensor of the run
        self.register_buffer("keys", F.normalize(keys, dim=1, out=keys))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *given: Any) -> None:
        """Refuse counters that point outside of the queue."""
        super()._load_from_state_dict(state_dict, prefix, *given)
        length, errors = len(self.keys), given[-1]
        if not (0 <= int(self.pointer) < length and 0 <= int(self.filled) <= length):
            errors.append(
                f"'{prefix}pointer' {int(self.pointer)} or '{prefix}filled' {int(self.filled)} is"
                f" outside of the queue's {length} keys"
            )

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Write keys [B, D] after the newest one. If B > K, only the last K are kept.

        The pointer stays on the device, so the host does not wait for it.
        """
        length, device = len(self.keys), self.keys.device
        skipped = max(0, len(keys) - length)
        places = (self.pointer + torch.arange(skipped, len(keys), device=device)).remainder_(length)
        self.keys.index_copy_(0, places, keys[skipped:].to(self.keys.dtype))
        self.pointer.add_(len(keys)).remainder_(length)
        self.filled.add_(len(keys)).clamp_(max=length)

    def oldest(self, per_step: int) -> tuple[Tensor, int]:
        """The remaining keys of the oldest step, [b, D] in their order, and their age in steps.

        Each step brings `per_step` keys. The keys of the last step have age 1; age 0 means that the
        queue holds no real key. New keys overwrite the first keys of the oldest step first, so
        the last keys of this step remain.
        """
        filled = int(self.filled)
        age = -(-filled // per_step)
        left = filled - max(0, age - 1) * per_step
        indices = torch.arange(left, device=self.keys.device)
        return self.keys[(self.pointer - filled + indices) % len(self.keys)], age
