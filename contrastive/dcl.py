"""DCL: SimCLR without the positive pair in the denominator.

Yeh et al.: Decoupled Contrastive Learning, 2022 (arXiv:2110.06848). B = images on this process,
N = images in the global batch, D = projection dimensions.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from contrastive.simclr import SimCLR, SimCLRConfig
from core.batch import Batch, Output, at_least_float32
from core.distributed import gather, rank, world
from core.information.losses import in_float32


@dataclass
class DCLConfig(SimCLRConfig):
    """DCL has the same keys as SimCLR."""


class DCL(SimCLR):
    """Trains with the decoupled loss. It is not InfoNCE, so log C - L is not a bound. Its codes and
    temperature still define a critic. The information probe evaluates this critic by InfoNCE.
    """

    Config = DCLConfig

    def forward(self, batch: Batch) -> Output:
        first, second = self.in_micro_batches(self._project_both, *batch.views[:2])
        loss = decoupled_loss(first, second, self.temperature)
        return Output(loss, {"dcl": loss.detach()} | self.plain_metrics(first, second))


@in_float32
def decoupled_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Takes unit codes first, second [B, D] of two views. Returns a scalar, the mean over the 2N
    views of

        -s(i, own) + log sum_{k of other images} exp s(i, k),   s = <z_i, z_k> / T

    where each view has 2N - 2 negatives.
    """
    first, second = at_least_float32(first), at_least_float32(second)
    here, everyone = torch.cat([first, second]), torch.cat([gather(first), gather(second)])
    n = len(first) * world()
    scores = here @ everyone.T / temperature  # [2B, 2N]
    mine = rank() * len(first) + torch.arange(len(first), device=first.device)
    own = torch.cat([mine, mine])
    rows = torch.arange(len(here), device=first.device)
    positive = scores[rows, torch.cat([mine + n, mine])]
    others = torch.ones_like(scores, dtype=torch.bool)
    others[rows, own] = others[rows, own + n] = False
    return (scores.masked_fill(~others, -math.inf).logsumexp(1) - positive).mean()
