"""MoCo's queue of keys: a ring of any length K, fed by batches of any size.

K = slots, B = keys of one step (of all processes), D = dimensions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class KeyQueue(nn.Module):
    """The last K keys, oldest overwritten first, in place. Contents and pointer are buffers, so a
    checkpoint holds both.

    Until K keys have come in, the remaining slots hold random unit vectors; `filled` counts the
    real ones.
    """

    keys: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, length: int, dim: int):
        super().__init__()
        keys = torch.randn(length, dim)
        self.register_buffer(
            "keys", F.normalize(keys, dim=1, out=keys)
        )  # in place: a long queue is larger than all else
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *given: Any) -> None:
        """As any module, and refuse counters that name no place of the queue."""
        super()._load_from_state_dict(state_dict, prefix, *given)
        length, errors = len(self.keys), given[-1]
        if not (0 <= int(self.pointer) < length and 0 <= int(self.filled) <= length):
            errors.append(
                f"'{prefix}pointer' {int(self.pointer)} or '{prefix}filled' {int(self.filled)} is"
                f" outside of the queue's {length} keys"
            )

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Write keys [B, D] behind the newest one, around the end without losing any; of more than
        K the last K stay.

        Nothing is copied but the keys, and the pointer is never asked for: a device does not wait.
        """
        length, device = len(self.keys), self.keys.device
        skipped = max(0, len(keys) - length)
        places = (self.pointer + torch.arange(skipped, len(keys), device=device)).remainder_(length)
        self.keys.index_copy_(0, places, keys[skipped:].to(self.keys.dtype))
        self.pointer.add_(len(keys)).remainder_(length)
        self.filled.add_(len(keys)).clamp_(max=length)

    def oldest(self, per_step: int) -> tuple[Tensor, int]:
        """What is left of the oldest step, [b, D] in the order it came in, and its age: 1 for the
        last step, 0 where no key is real.

        `per_step` keys come in with each step. Old keys are overwritten from the front, so what is
        left is the tail of that step's keys.
        """
        filled = int(self.filled)
        age = -(-filled // per_step)
        left = filled - max(0, age - 1) * per_step
        places = (self.pointer - filled + torch.arange(left, device=self.keys.device)) % len(
            self.keys
        )
        return self.keys[places], age
