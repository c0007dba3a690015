"""SupCon: SimCLR in which all views of images with the same label are positives.

Khosla et al.: Supervised Contrastive Learning, 2020 (arXiv:2004.11362). It is the only
method in this package that reads labels. B = images on this process, N = images in the global
batch, D = projection dimensions, F = label columns.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from contrastive.simclr import SimCLR, SimCLRConfig
from core.batch import Batch, Output, at_least_float32
from core.distributed import gather, rank
from core.information.losses import in_float32


@dataclass
class SupConConfig(SimCLRConfig):
    # label columns, numbered from 0; two images are of the same class if they agree in all of
    # these columns; empty = all columns
    columns: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(column < 0 for column in self.columns):
            raise ValueError(f"columns: must be 0 or more, got {self.columns}")


class SupCon(SimCLR):
    """Trains with the supervised loss. It has several positives, so no bound follows from it."""

    Config = SupConConfig

    def forward(self, batch: Batch) -> Output:
        first, second = self.in_micro_batches(self._project_both, *batch.views[:2])
        label = batch.label[:, self.config.columns] if self.config.columns else batch.label
        loss = supervised_loss(first, second, label, self.temperature)
        return Output(loss, {"supcon": loss.detach()} | self.plain_metrics(first, second))


@in_float32
def supervised_loss(first: Tensor, second: Tensor, label: Tensor, temperature: float) -> Tensor:
    """Takes unit codes first, second [B, D] of two views, and labels [B, F]. Returns a scalar, the
    loss L_out of the paper, which is the mean over the 2N views i of

        -1 / |P(i)| sum_{p in P(i)} log( exp s(i, p) / sum_{a != i} exp s(i, a) ),
        s = <z_i, z_a> / T,   P(i) = the other views with the label of i

    If all images have different labels, it equals NT-Xent.
    """
    first, second = at_least_float32(first), at_least_float32(second)
    here, everyone = torch.cat([first, second]), torch.cat([gather(first), gather(second)])
    every_label = gather(label)
    n = len(every_label)
    scores = here @ everyone.T / temperature  # [2B, 2N]
    mine = rank() * len(first) + torch.arange(len(first), device=first.device)
    own = torch.cat([mine, mine + n])
    rows = torch.arange(len(here), device=first.device)
    same = (label[:, None] == every_label).all(2).repeat(2, 2)
    itself = torch.zeros_like(same).index_put((rows, own), torch.ones_like(rows, dtype=torch.bool))
    same, scores = same & ~itself, scores.masked_fill(itself, -math.inf)
    log_share = scores - scores.logsumexp(1, keepdim=True)
    positives = torch.where(same, log_share, 0.0).sum(1) / same.sum(1)
    return -positives.mean()
