"""Two kinds of batch norm. One has the statistics of the global batch, for any number of processes.
The other has separate statistics for each group of rows, with all groups in one pass.

torch.nn.SyncBatchNorm runs only on GPUs and has no groups. B = rows on this process, C = channels,
S = positions of a feature map, G = groups of rows with their own statistics.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.batch import at_least_float32
from core.distributed import in_parts, total, world
from core.errors import UserError

M = TypeVar("M", bound=nn.Module)


class Groups:
    """The groups of the rows of a pass, and the statistics that the pass computed.

    `number` int64 [B] is the group of each row. `in_turns`: row r belongs to group r % G, and all
    groups have the same size. Then rows [B, C, ...] can be viewed as [B / G, G C, ...]. In this
    view, each group has channels of its own, so torch's kernel computes all groups at once.
    """

    def __init__(self, number: Tensor, count: int, in_turns: bool, parts: "list[GroupedBatchNorm]"):
        self.number, self.count, self.in_turns = number, count, in_turns
        self.repeated: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self.places: dict[GroupedBatchNorm, Tensor] = {}  # zeros [2, G C] of each layer
        # means and variances [G C] of each layer, and the factor for an unbiased variance
        self.found: dict[GroupedBatchNorm, tuple[Tensor, Tensor, float]] = {}
        if in_turns:
            self._prepare([part for part in parts if not in_parts(part.weight)])

    def _prepare(self, parts: "list[GroupedBatchNorm]") -> None:
        """Prepare all layers with three operators, instead of three for each layer."""
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
        """A layer's weight and bias, repeated for each group, [G C]."""
        if part.weight is None:
            return None, None
        if part not in self.repeated:
            return part.weight.repeat(self.count), part.bias.repeat(self.count)
        return self.repeated[part]

    def find(self, part: "GroupedBatchNorm", mean: Tensor, variance: Tensor, factor: float) -> None:
        """Store a layer's statistics until the end of the pass."""
        if part in self.found:  # called again within one pass
            self.remember()
        self.found[part] = mean, variance, factor

    @torch.no_grad()
    def remember(self) -> None:
        """Update the running statistics of all layers of the pass with a few operators."""
        found, self.found = self.found, {}
        for momentum in {part.momentum for part in found}:
            parts = [part for part in found if part.momentum == momentum]
            of_means, of_variances, factors = zip(*(found[part] for part in parts), strict=True)
            unbiased = torch._foreach_mul(of_variances, factors)
            means, variances = (
                torch.cat([x.view(self.count, -1) for x in of], 1) for of in (of_means, unbiased)
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
    """The factors (kept, shares [G]) that update running statistics r like G separate passes, in
    which x_g are the statistics of group g:

        kept r + sum_g share_g x_g,   kept = (1 - m)^G, share_g = m (1 - m)^(G - 1 - g)

    Without a momentum m, the result is the mean of all passes.
    """
    tracked, running = part.num_batches_tracked, part.running_mean
    assert tracked is not None and running is not None
    ahead = torch.arange(count - 1, -1, -1, device=running.device, dtype=running.dtype)
    if momentum is not None:
        return (1 - momentum) ** count, momentum * (1 - momentum) ** ahead
    passes = tracked + count
    return (tracked / passes).to(ahead.dtype), torch.ones_like(ahead) / passes


class GroupedBatchNorm(_BatchNorm):
    """Batch norm; in training, inside of `in_groups`, each group of rows has its own statistics.
    Gradients need `in_turns`. (It is not a subclass of torch's SyncBatchNorm, because DDP refuses
    that on a CPU.)
    """

    process_group = None  # torch's name for all processes
    _check_input_dim = nn.SyncBatchNorm._check_input_dim
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels
    groups: Groups | None = None
    together = False  # whether statistics are summed over processes

    def forward(self, x: Tensor) -> Tensor:
        """Rows [B, C, ...]."""
        if not self.training or self.groups is None:
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[misc]  # rejects rows without channels
        if self.together and world() > 1:
            return self._of_groups(x, self.groups)
        in_rows = x.is_contiguous() or torch.is_grad_enabled()
        if self.groups.in_turns and in_rows and not torch.compiler.is_compiling():
            return self._in_turns(x.contiguous(), self.groups)
        return self._of_groups(x, self.groups)

    def _in_turns(self, x: Tensor, groups: Groups) -> Tensor:
        """Use torch's kernel with the groups as channels. With momentum 1, the running statistics
        that it returns are those of the batch.
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
            place = groups.places.pop(self, None)
            place = self.running_mean.new_zeros(2, channels) if place is None else place
            mean, variance = place.unbind()
            groups.find(self, mean, variance, 1.0)
        weight, bias = groups.affine(self)
        return torch.native_batch_norm(wide, weight, bias, mean, variance, True, 1.0, self.eps)[
            0
        ].view_as(x)

    def _of_groups(self, x: Tensor, groups: Groups) -> Tensor:
        """(x - mean) / sqrt(variance + eps) times weight plus bias, without a copy of x. The result
        has x's memory format and dtype.
        """
        with torch.autocast(x.device.type, enabled=False):
            if groups.in_turns and not (self.together and world() > 1):
                return self._reduced(x, groups)
            mean, variance, values = self._statistics(x, groups)
            if self.track_running_stats:
                self._remember(mean, variance * (values / (values - 1).clamp(min=1)))
            scale, shift = (y[groups.number] for y in self._line(mean, variance))
            return _on_line(x, scale, shift)

    def _reduced(self, x: Tensor, groups: Groups) -> Tensor:
        """For groups in turns: two reductions of x [B / G, G, C, ...] and one more operator."""
        wide = x.unflatten(0, (-1, groups.count))
        mean, variance = _moments(wide.flatten(3) if x.ndim > 2 else wide[..., None], (0, 3))
        if self.track_running_stats:
            values = x.numel() // (groups.count * self.num_features)
            factor = values / max(1, values - 1)
            if torch.compiler.is_compiling():
                self._remember(mean, variance * factor)
            else:
                groups.find(self, mean, variance, factor)
        return _on_line(wide, *(y[None] for y in self._line(mean, variance))).flatten(0, 1)

    def _line(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Batch norm as x scale + shift; scale and shift [G, C]."""
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is None:
            return scale, -mean * scale
        scale = scale * self.weight
        return scale, torch.addcmul(self.bias, mean, scale, value=-1)

    def _statistics(self, x: Tensor, groups: Groups) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and variance [G, C] and the number of values [G, 1] of each group.

        They are combined from the means and variances of single rows. A single process subtracts
        the mean of the group before it squares. Several processes subtract the running mean, which
        all of them know, so one sum over processes is enough. The rounding error of the variance is
        then about (mean - running mean)^2 / variance units of the last place.
        """
        rows = x.flatten(2) if x.ndim > 2 else x[:, :, None]
        mean, variance = _moments(rows, (2,))
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
        """Update the running statistics like one pass per group; means and variances [G, C]."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        kept, shares = _shares(len(means), self.momentum, self)
        for running, values in ((self.running_mean, means), (self.running_var, variances)):
            moved = (values * shares.to(values.dtype)[:, None]).sum(0)
            running.mul_(kept).add_(moved.to(running.dtype))
        self.num_batches_tracked.add_(len(means))


def _on_line(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x scale + shift with x's dtype and memory format; scale lacks x's last dimensions."""
    scale, shift = (y.view(*y.shape, *[1] * (x.ndim - y.ndim)) for y in (scale, shift))
    if torch.compiler.is_compiling():  # the compiler makes one kernel
        return torch.addcmul(shift, x.to(scale.dtype), scale).to(x.dtype)
    return torch.addcmul(shift, x, scale, out=torch.empty_like(x))


def _moments(x: Tensor, over: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and variance over dimensions, in float32 or wider, without a wider copy of x.

    For half precision, the variance is the mean of squares minus the squared mean. Its error is
    mean^2 / variance units of float32's last place, less than that of rounding x.
    """
    if x.dtype in (torch.float32, torch.float64):
        variance, mean = torch.var_mean(x, over, correction=0)
        return mean, variance
    values = math.prod(x.shape[i] for i in over)
    mean = x.mean(over, dtype=torch.float32)
    square = torch.linalg.vector_norm(x, dim=over, dtype=torch.float32).square_().div_(values)
    return mean, square.addcmul_(mean, mean, value=-1).clamp_(min=0)


class SyncBatchNorm(GroupedBatchNorm):
    """Training statistics are those of all rows of all processes or, inside `in_groups`, of all
    rows of the same group.
    """

    together = True

    def forward(self, x: Tensor) -> Tensor:
        """Rows [B, C, ...]. Gradients as in `core.distributed.gather`."""
        if not self.training or world() == 1 or self.groups is not None:
            return super().forward(x)
        if x.device.type == "cuda" and not torch.compiler.is_compiling():
            return nn.SyncBatchNorm.forward(self, x)  # type: ignore[arg-type]  # torch's kernels
        return self._normalised(x.reshape(*x.shape[:2], -1)).reshape(x.shape).to(x.dtype)

    def _normalised(self, x: Tensor) -> Tensor:
        """(x - mean) / sqrt(variance + eps) times weight plus bias, for x [B, C, S]."""
        x = at_least_float32(x)
        # the last number counts the values
        sums = torch.cat([x.sum((0, 2)), x.new_full((1,), len(x) * x.shape[2])])
        mean, values = total(sums).split([x.shape[1], 1])
        mean = mean / values
        # a second pass over the data, because E x^2 - (E x)^2 loses digits
        centred = x - mean[:, None]
        variance = total(centred.square().sum((0, 2))) / values
        if self.track_running_stats:
            unbiased = variance * values / (values - 1).clamp(min=1)
            self._remember(mean.detach()[None], unbiased.detach()[None])
        scale = torch.rsqrt(variance + self.eps) * (1 if self.weight is None else self.weight)
        normalised = centred * scale[:, None]
        return normalised if self.bias is None else normalised + self.bias[:, None]


class GroupedBatchNormAct(GroupedBatchNorm):
    """timm's batch norm with an activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class SyncBatchNormAct(GroupedBatchNormAct, SyncBatchNorm):
    """`GroupedBatchNormAct` over all processes."""


KINDS: dict[type, tuple[type[GroupedBatchNorm], type[SyncBatchNorm]]] = {
    **dict.fromkeys(
        (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, GroupedBatchNorm),
        (GroupedBatchNorm, SyncBatchNorm),
    ),
    GroupedBatchNormAct: (GroupedBatchNormAct, SyncBatchNormAct),
}


def _kind(part: nn.Module) -> tuple[type[GroupedBatchNorm], type[SyncBatchNorm]] | None:
    """The classes that replace this batch norm, if its kind is known."""
    timm = sys.modules.get("timm.layers")  # if it is not imported, no network has its layers
    if timm is not None and type(part) is timm.BatchNormAct2d:
        return KINDS[GroupedBatchNormAct]
    return KINDS.get(type(part))


def synchronise(module: M) -> M:
    """Make every batch norm of a module a `SyncBatchNorm`; parameters keep their names."""
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm):
            if (kind := _kind(part)) is None:
                raise UserError(
                    f"trainer.sync_batchnorm: '{name}' is a {type(part).__name__}, which can not"
                    " be synchronised; set trainer.sync_batchnorm=false"
                )
            part.__class__ = kind[1]
    return module


def grouped(module: nn.Module) -> bool:
    """Make every batch norm of a module a `GroupedBatchNorm`, if their kinds are known. Returns
    whether one pass can then process several groups of rows.
    """
    layers = [part for part in module.modules() if hasattr(part, "running_var")]
    kinds = [kind for part in layers if (kind := _kind(part))]
    if len(kinds) < len(layers):
        return False
    for part, kind in zip(layers, kinds, strict=True):
        part.__class__ = kind[0]
    return True


def synchronised(module: nn.Module) -> bool:
    """Whether the batch norms of a module use the rows of other processes now."""
    return world() > 1 and any(isinstance(part, SyncBatchNorm) for part in module.modules())


@contextmanager
def in_groups(
    module: nn.Module, number: Tensor, count: int, in_turns: bool = False
) -> Iterator[None]:
    """Within this context, each of G = `count` groups of rows has its own batch statistics;
    `number` [B] is the group of each row. `in_turns`: row r belongs to group r % G, which gradients
    require. At the end the running statistics are updated as if each group had been a pass of its
    own.
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
