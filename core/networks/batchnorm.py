"""Batch norm with the statistics of the global batch, for any number of processes.

torch.nn.SyncBatchNorm supports only GPUs and no groups. B = rows on this process, C = channels,
S = places in a map, G = groups of rows with their own statistics.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.batch import at_least_float32
from core.distributed import total, world
from core.errors import UserError

M = TypeVar("M", bound=nn.Module)


class SyncBatchNorm(_BatchNorm):
    """Training statistics are those of all rows of all processes or, inside `in_groups`, of all
    rows of the same group. (It is no subclass of torch's class, which DDP refuses on a CPU.)
    """

    process_group = None  # torch's name for all processes
    _check_input_dim = nn.SyncBatchNorm._check_input_dim
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels
    group: Tensor | None = None  # int64 [B], the group of each row
    groups = 1

    def forward(self, x: Tensor) -> Tensor:
        """Rows [B, C, ...]. Gradients as in `core.distributed.gather`."""
        if not self.training or world() == 1:
            return super().forward(x)
        if self.group is None and x.device.type == "cuda":
            return nn.SyncBatchNorm.forward(self, x)  # type: ignore[arg-type]  # torch's kernels
        return self._normalised(x.reshape(*x.shape[:2], -1)).reshape(x.shape).to(x.dtype)

    @torch.compiler.disable  # sums over processes can not be compiled
    def _normalised(self, x: Tensor) -> Tensor:
        """(x - mean) / sqrt(variance + eps) times weight plus bias, for x [B, C, S]."""
        x = at_least_float32(x)
        group = self.group
        if group is None:
            group = torch.zeros(len(x), dtype=torch.long, device=x.device)
        # the last column counts the values
        sums = torch.cat([x.sum(2), torch.full_like(x[:, :1, 0], x.shape[2])], 1)
        mean, values = total(self._sums(sums, group)).split([x.shape[1], 1], 1)
        mean = mean / values
        # a second pass over the data, because E x^2 - (E x)^2 loses digits
        centred = x - mean[group][:, :, None]
        variance = total(self._sums(centred.square().sum(2), group)) / values
        if self.track_running_stats:
            self._remember(mean.detach(), (variance * values / (values - 1).clamp(min=1)).detach())
        scale = torch.rsqrt(variance + self.eps) * (1 if self.weight is None else self.weight)
        normalised = centred * scale[group][:, :, None]
        return normalised if self.bias is None else normalised + self.bias[:, None]

    def _sums(self, rows: Tensor, group: Tensor) -> Tensor:
        """Rows [B, C] summed by group, [G, C]."""
        return rows.new_zeros(self.groups, rows.shape[1]).index_add(0, group, rows)

    def _remember(self, means: Tensor, variances: Tensor) -> None:
        """Update the running statistics once per group."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        for mean, variance in zip(means, variances, strict=True):
            self.num_batches_tracked.add_(1)
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
            self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class SyncBatchNormAct(SyncBatchNorm):
    """timm's batch norm with an activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


KINDS: dict[type, type[SyncBatchNorm]] = {
    nn.BatchNorm1d: SyncBatchNorm,
    nn.BatchNorm2d: SyncBatchNorm,
    nn.BatchNorm3d: SyncBatchNorm,
    BatchNormAct2d: SyncBatchNormAct,
}


def synchronise(module: M) -> M:
    """Make every batch norm of a module a `SyncBatchNorm`; parameters keep their names."""
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm):
            if type(part) not in KINDS:
                raise UserError(
                    f"trainer.sync_batchnorm: '{name}' is a {type(part).__name__}, which can not"
                    " be synchronised; set trainer.sync_batchnorm=false"
                )
            part.__class__ = KINDS[type(part)]
    return module


def synchronised(module: nn.Module) -> bool:
    """Whether the batch norms of a module use the rows of other processes now."""
    return world() > 1 and any(isinstance(part, SyncBatchNorm) for part in module.modules())


@contextmanager
def in_groups(module: nn.Module, group: Tensor, groups: int) -> Iterator[None]:
    """Inside, each of G groups of rows has its own batch statistics; group [B] numbers the rows."""
    parts = [part for part in module.modules() if isinstance(part, SyncBatchNorm)]
    for part in parts:
        part.group, part.groups = group, groups
    try:
        yield
    finally:
        for part in parts:
            part.group, part.groups = None, 1
