"""Batch norm whose statistics are those of the global batch, so that the number of processes
changes nothing, or those of groups of rows, so that one pass serves several groups.

torch.nn.SyncBatchNorm does the first on GPUs only, and has no groups. B = rows on this process, C =
channels, S = places in a map, G = groups of rows that have statistics of their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm

from core.batch import at_least_float32
from core.distributed import total, world
from core.errors import UserError

M = TypeVar("M", bound=nn.Module)


class Groups:
    """Which rows of a pass share their statistics, and what the pass found.

    `number` int64 [B] is the group of each row. In turns: row r belongs to group r % G, and all
    groups have the same size. Then the rows [B, C, ...] are, without a copy, rows [B / G, G C, ...]
    whose channels are all channels of all groups, and torch's own kernel serves.
    """

    def __init__(self, number: Tensor, count: int, in_turns: bool, parts: "list[GroupedBatchNorm]"):
        self.number, self.count, self.in_turns = number, count, in_turns
        self.repeated: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        # means and unbiased variances [2, G C] of the layers: places for them, and those found
        self.places: dict[GroupedBatchNorm, Tensor] = {}
        self.found: dict[GroupedBatchNorm, Tensor] = {}
        if in_turns:
            self._prepare([part for part in parts if not isinstance(part.weight, DTensor)])

    def _prepare(self, parts: "list[GroupedBatchNorm]") -> None:
        """What all layers need, in three operators instead of three for each layer."""
        affine = [part for part in parts if part.weight is not None]
        if affine:
            sizes = [self.count * part.num_features for part in affine]
            weights, biases = (
                torch.cat([getattr(p, x) for p in affine for _ in range(self.count)]).split(sizes)
                for x in ("weight", "bias")
            )
            self.repeated = dict(zip(affine, zip(weights, biases, strict=True), strict=True))
        tracked = [part for part in parts if part.running_mean is not None]
        if tracked:
            sizes = [2 * self.count * part.num_features for part in tracked]
            assert tracked[0].running_mean is not None
            places = tracked[0].running_mean.new_zeros(sum(sizes)).split(sizes)
            self.places = {p: x.view(2, -1) for p, x in zip(tracked, places, strict=True)}

    def sum(self, rows: Tensor) -> Tensor:
        """Rows [B, D] summed by group, [G, D]."""
        return rows.new_zeros(self.count, rows.shape[1]).index_add_(0, self.number, rows)

    def affine(self, part: "GroupedBatchNorm") -> tuple[Tensor | None, Tensor | None]:
        """A layer's weight and bias, once for each group, [G C]."""
        if part.weight is None:
            return None, None
        if part not in self.repeated:
            return part.weight.repeat(self.count), part.bias.repeat(self.count)
        return self.repeated[part]

    @torch.no_grad()
    def remember(self) -> None:
        """Move the running statistics of all layers of the pass, in a handful of operators."""
        found, self.found = self.found, {}
        for momentum in {part.momentum for part in found}:
            parts = [part for part in found if part.momentum == momentum]
            means, variances = (
                torch.cat([found[part][i].view(self.count, -1) for part in parts], 1)
                for i in range(2)
            )
            kept, shares = _shares(self.count, momentum, parts[0])
            sizes = [part.num_features for part in parts]
            for name, values in (("running_mean", means), ("running_var", variances)):
                running: list[Tensor] = [getattr(part, name) for part in parts]
                moved = (values * shares.to(values.dtype)[:, None]).sum(0).split(sizes)
                torch._foreach_mul_(running, kept)
                torch._foreach_add_(running, [x.to(running[0].dtype) for x in moved])
            torch._foreach_add_([p.get_buffer("num_batches_tracked") for p in parts], self.count)


def _shares(
    count: int, momentum: float | None, part: "GroupedBatchNorm"
) -> tuple[float | Tensor, Tensor]:
    """What one pass after another for G groups leaves in the running statistics r:

        kept r + sum_g share_g x_g,   kept = (1 - m)^G, share_g = m (1 - m)^(G - 1 - g)

    and, without a momentum, the mean of all passes. Shares are [G].
    """
    tracked, running = part.num_batches_tracked, part.running_mean
    assert tracked is not None and running is not None
    ahead = torch.arange(count - 1, -1, -1, device=running.device, dtype=running.dtype)
    if momentum is not None:
        return (1 - momentum) ** count, momentum * (1 - momentum) ** ahead
    passes = tracked + count
    return (tracked / passes).to(ahead.dtype), torch.ones_like(ahead) / passes


class GroupedBatchNorm(_BatchNorm):
    """Batch norm; in training, inside of `in_groups`, each group of rows has statistics of its
    own. There is a gradient where groups take turns.

    No subclass of torch's SyncBatchNorm, which DDP refuses to wrap on a CPU.
    """

    process_group = None  # torch's name for all processes
    _check_input_dim = nn.SyncBatchNorm._check_input_dim
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels
    groups: Groups | None = None
    together = False  # statistics are summed over processes

    def forward(self, x: Tensor) -> Tensor:
        """Rows [B, C, ...]."""
        if not self.training or self.groups is None:
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[misc]  # asks for two dimensions, of any module
        if self.together and world() > 1:
            return self._sums_apart(x, self.groups)
        in_rows = x.is_contiguous() or torch.is_grad_enabled()
        if self.groups.in_turns and in_rows and not torch.compiler.is_compiling():
            return self._in_turns(x.contiguous(), self.groups)
        return self._of_groups(x, self.groups)

    def _in_turns(self, x: Tensor, groups: Groups) -> Tensor:
        """By torch's kernel, the groups as channels: the statistics, taken once with momentum 1,
        are those of the batch.
        """
        channels = groups.count * self.num_features
        wide = x.view(len(x) // groups.count, channels, *x.shape[2:])
        if wide.numel() == channels:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {x.shape}"
            )
        mean = variance = None
        if self.track_running_stats:
            assert self.running_mean is not None
            if self in groups.found:  # called again within one pass
                groups.remember()
            place = groups.places.pop(self, None)
            groups.found[self] = (
                self.running_mean.new_zeros(2, channels) if place is None else place
            )
            mean, variance = groups.found[self].unbind()
        weight, bias = groups.affine(self)
        return torch.native_batch_norm(wide, weight, bias, mean, variance, True, 1.0, self.eps)[
            0
        ].view_as(x)

    @torch.compiler.disable  # sums over processes are
    def _sums_apart(self, x: Tensor, groups: Groups) -> Tensor:
        return self._of_groups(x, groups)

    def _of_groups(self, x: Tensor, groups: Groups) -> Tensor:
        """(x - mean) / sqrt(variance + eps) times weight plus bias. Memory order and dtype of x
        stay as they are, and x is not copied.
        """
        with torch.autocast(x.device.type, enabled=False):
            mean, variance, values = self._statistics(x, groups)
            if self.track_running_stats:
                self._remember(mean, variance * (values / (values - 1).clamp(min=1)))
            scale = torch.rsqrt(variance + self.eps)
            if self.weight is None:
                shift = -mean * scale
            else:
                scale = scale * self.weight
                shift = torch.addcmul(self.bias, mean, scale, value=-1)
            scale, shift = (
                y[groups.number].view(*x.shape[:2], *[1] * (x.ndim - 2)) for y in (scale, shift)
            )
            if torch.compiler.is_compiling():  # one kernel in any case
                return torch.addcmul(shift, x.to(scale.dtype), scale).to(x.dtype)
            return torch.addcmul(shift, x, scale, out=torch.empty_like(x))

    def _statistics(self, x: Tensor, groups: Groups) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and variance [G, C] and the number of values [G, 1] of each group.

        Each row gives its own mean and variance. In one process they are put together about the
        mean of the group. Several processes sum once, about the running mean, which is the same
        everywhere: that costs the variance about (mean - running mean)^2 / variance units of the
        last place.
        """
        rows = x.flatten(2) if x.ndim > 2 else x[:, :, None]
        mean, variance = _of_rows(rows)
        ones = torch.ones_like(mean[:, :1])
        if self.together and world() > 1:
            about = self.running_mean
            off = mean if about is None else mean - about
            squares = torch.addcmul(variance, off, off)
            sums = total(groups.sum(torch.cat([off, squares, ones], 1)))
            found, square, count = sums.split([off.shape[1], off.shape[1], 1], 1)
            found = found / count
            variance = torch.addcmul(square / count, found, found, value=-1).clamp_(min=0)
            return found if about is None else found + about, variance, count * rows.shape[2]
        found, count = groups.sum(torch.cat([mean, ones], 1)).split([mean.shape[1], 1], 1)
        found = found / count
        off = mean - found[groups.number]
        variance = groups.sum(torch.addcmul(variance, off, off)) / count
        return found, variance, count * rows.shape[2]

    def _remember(self, means: Tensor, variances: Tensor) -> None:
        """Move the running statistics once for each group [G, C], as one pass for each would."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        kept, shares = _shares(len(means), self.momentum, self)
        for running, values in ((self.running_mean, means), (self.running_var, variances)):
            moved = (values * shares.to(values.dtype)[:, None]).sum(0)
            running.mul_(kept).add_(moved.to(running.dtype))
        self.num_batches_tracked.add_(len(means))


def _of_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each row and channel, [B, C, S] to [B, C], in float32 or wider and
    without a copy of the rows in it.

    Of half precision the variance is a mean of squares less a squared mean: off by mean^2 /
    variance units of float32's last place, which is less than the rounding of the rows costs.
    """
    if rows.dtype in (torch.float32, torch.float64):
        variance, mean = torch.var_mean(rows, 2, correction=0)
        return mean, variance
    mean = rows.mean(2, dtype=torch.float32)
    norm = torch.linalg.vector_norm(rows, dim=2, dtype=torch.float32)
    return mean, (norm.square() / rows.shape[2] - mean.square()).clamp_(min=0)


class SyncBatchNorm(GroupedBatchNorm):
    """Statistics in training are those of all rows of all processes or, inside `in_groups`, of all
    rows of the same group.
    """

    together = True

    def forward(self, x: Tensor) -> Tensor:
        """Rows [B, C, ...]. The gradient is that of the sum of all processes' losses, as
        `core.distributed.gather`'s is.
        """
        if not self.training or world() == 1 or self.groups is not None:
            return super().forward(x)
        if x.device.type == "cuda":
            return nn.SyncBatchNorm.forward(self, x)  # type: ignore[arg-type]  # torch's kernels
        return self._normalised(x.reshape(*x.shape[:2], -1)).reshape(x.shape).to(x.dtype)

    @torch.compiler.disable  # sums over processes can not be compiled
    def _normalised(self, x: Tensor) -> Tensor:
        """(x - mean) / sqrt(variance + eps) times weight plus bias, for x [B, C, S]."""
        x = at_least_float32(x)
        sums = torch.cat([x.sum((0, 2)), x.new_full((1,), len(x) * x.shape[2])])
        # and, last, of how many values
        mean, values = total(sums).split([x.shape[1], 1])
        mean = mean / values
        # a second look at the data, for E x^2 - (E x)^2 loses digits
        centred = x - mean[:, None]
        variance = total(centred.square().sum((0, 2))) / values
        if self.track_running_stats:
            unbiased = variance * values / (values - 1).clamp(min=1)
            self._remember(mean.detach()[None], unbiased.detach()[None])
        scale = torch.rsqrt(variance + self.eps) * (1 if self.weight is None else self.weight)
        normalised = centred * scale[:, None]
        return normalised if self.bias is None else normalised + self.bias[:, None]


class GroupedBatchNormAct(GroupedBatchNorm):
    """timm's batch norm with an activation behind it."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class SyncBatchNormAct(GroupedBatchNormAct, SyncBatchNorm):
    """The same, over processes."""


KINDS: dict[type, tuple[type[GroupedBatchNorm], type[SyncBatchNorm]]] = {
    **dict.fromkeys(
        (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, GroupedBatchNorm),
        (GroupedBatchNorm, SyncBatchNorm),
    ),
    **dict.fromkeys((BatchNormAct2d, GroupedBatchNormAct), (GroupedBatchNormAct, SyncBatchNormAct)),
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
            part.__class__ = KINDS[type(part)][1]
    return module


def grouped(module: nn.Module) -> bool:
    """Every batch norm of a module as `GroupedBatchNorm`, in place. Says whether one pass can serve
    groups of rows: not where a layer with statistics of the batch is of another kind.
    """
    looking = [part for part in module.modules() if hasattr(part, "running_var")]
    if any(type(part) not in KINDS for part in looking):
        return False
    for part in looking:
        part.__class__ = KINDS[type(part)][0]
    return True


def synchronised(module: nn.Module) -> bool:
    """Whether the batch norms of a module use the rows of other processes now."""
    return world() > 1 and any(isinstance(part, SyncBatchNorm) for part in module.modules())


@contextmanager
def in_groups(
    module: nn.Module, number: Tensor, count: int, in_turns: bool = False
) -> Iterator[None]:
    """Inside, each of G groups of rows has batch statistics of its own: `number` [B] holds the
    groups of this process's rows. `in_turns` promises that row r is of group r % G; there is a
    gradient in that case alone. The running statistics are moved at the end, as one pass for each
    group would have done.
    """
    parts = [part for part in module.modules() if isinstance(part, GroupedBatchNorm)]
    groups = Groups(number, count, in_turns, parts)
    for part in parts:
        part.groups = groups
    try:
        yield
    finally:
        for part in parts:
            part.groups = None
    groups.remember()
