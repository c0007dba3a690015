"""What a nat of rate costs while a VAE trains: one mechanism turns rate and distortion into the
objective.

R = rate, D = distortion, both in nats an image; B = images on this process, G = columns of the
rate, one a dimension of the code where the prior factorises; p = progress, the share of training
done; * marks what is aimed at, `nats` in the config.

    constant           D + beta R
                       (Kingma & Welling 2014; Higgins et al. 2017)
    linear             the same, beta rising from 0 over `warmup`  (Bowman et al. 2016)
    cyclical           the same, `cycles` times, each rising over its share `ramp` and then
                       constant  (Fu et al. 2019)
    free_bits          D + beta sum_g max(nats, R_g), R_g the mean over the batch of `group`
                       dimensions  (Kingma et al. 2016)
    soft_free_bits     D + price R, the price 10% up where R is over 5% above R*, 10% down where
                       it is over 5% below  (Chen et al. 2017)
    capacity           D + gamma |R - C|, C rising from 0 to `nats` over `warmup`
                       (Burgess et al. 2018)
    target_rate        D + price R, the price a Lagrange multiplier that holds R = R*
                       (Rezende & Viola 2018)
    target_distortion  the same, for D = D*

Only the objective is weighted: what a method logs are R, D and D + R at beta 1, and the price.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.distributed import mean
from core.errors import UserError
from core.kind_options import REQUIRED, Kinds, settings

KINDS: Kinds = {
    "constant": {"beta": 1.0},
    "linear": {"beta": 1.0, "warmup": 0.1},
    "cyclical": {"beta": 1.0, "cycles": 4, "ramp": 0.5},
    "free_bits": {"beta": 1.0, "nats": REQUIRED, "group": 1},
    "soft_free_bits": {"beta": 1.0, "nats": REQUIRED},
    "capacity": {"gamma": 100.0, "nats": REQUIRED, "warmup": 0.5},
    "target_rate": {"beta": 1.0, "nats": REQUIRED},
    "target_distortion": {"beta": 1.0, "nats": REQUIRED},
}
TARGETS = (
    "soft_free_bits",
    "target_rate",
    "target_distortion",
)  # their price follows what is measured
MEMORY = 0.95  # of the moving average of what is measured
EVERY, FACTOR, BAND = (
    10,
    1.1,
    0.05,
)  # soft free bits: steps between two looks, the factor, and what counts as off target
INTEGRAL, PROPORTIONAL = (
    0.05,
    3.0,
)  # the multiplier: change of its logarithm a step and a change of the relative error
LIMITS = (1e-4, 1e4)  # of a price, so that one that can not reach its target comes back


@dataclass
class RateConfig:
    """How rate is paid for. A field that the kind does not use stays null."""

    # constant | linear | cyclical | free_bits | soft_free_bits | capacity | target_rate |
    # target_distortion
    kind: str = "constant"
    beta: float | None = (
        None  # 1: the price of a nat of rate; the first one of soft_free_bits and the targets
    )
    warmup: float | None = (
        None  # share of training over which beta (0.1) or the capacity (0.5) rises
    )
    cycles: int | None = None  # 4
    ramp: float | None = None  # 0.5: share of a cycle over which beta rises
    gamma: float | None = None  # 100: the price of a nat away from the capacity
    nats: float | None = None  # free nats a group; or R, C or D aimed at
    group: int | None = None  # 1: dimensions that share their free bits; 0 = all of them

    def __post_init__(self) -> None:
        used = self.settings()
        for key, low, high in (
            ("beta", 0, math.inf),
            ("gamma", 0, math.inf),
            ("warmup", 0, 1.0),
            ("ramp", 0, 1.0),
            ("group", 0, math.inf),
        ):
            if key in used and not (low <= used[key] <= high and math.isfinite(used[key])):
                raise ValueError(
                    f"rate.{key}: must be {'0 or more' if high == math.inf else 'in [0, 1]'}, got"
                    f" {used[key]}"
                )
        if used.get("cycles", 1) < 1:
            raise ValueError(f"rate.cycles: must be 1 or more, got {used['cycles']}")
        if self.kind in TARGETS and used["beta"] == 0:
            raise ValueError(f"rate.beta: {self.kind} multiplies it, so it must be above 0")
        least = (
            -math.inf if self.kind == "target_distortion" else 0.0
        )  # a density's distortion may be negative
        if "nats" in used and not (math.isfinite(used["nats"]) and used["nats"] >= least):
            raise ValueError(
                f"rate.nats: must be {'finite' if least else '0 or more'}, got {used['nats']}"
            )
        if self.kind in ("soft_free_bits", "target_rate") and used["nats"] == 0:
            raise ValueError(f"rate.nats: {self.kind} aims at a rate above 0")

    def settings(self) -> dict[str, Any]:
        """The fields that the kind uses, defaults filled in."""
        return settings(self, KINDS, "rate")


class RateSchedule(nn.Module):
    """Rate [B, G] and distortion [B] to the training objective; `after_step(progress)` moves the
    price. All its state is in buffers.

    The multiplier follows the relative error e of a moving average, log price += INTEGRAL e +
    PROPORTIONAL (e - e before), with e = log(R / R*) for a rate, and for a distortion e = (D* - D)
    / min(price R, |D*|): along R(D) a nat of D is worth 1 / price nats of R. A step whose rate or
    distortion is not finite, which a gradient scaler skips as well, moves nothing.
    """

    price: Tensor
    capacity: Tensor
    average: Tensor
    latest: Tensor
    looks: Tensor

    def __init__(self, config: RateConfig, columns: int):
        super().__init__()
        self.config, self.settings = config, config.settings()
        group = self.settings.get("group") or columns
        if columns % group:
            raise UserError(
                f"model.rate.group: {columns} columns of the rate do not divide into groups of"
                f" {group}"
            )
        self.groups = columns // group
        self.register_buffer("price", torch.tensor(0.0))
        self.register_buffer("capacity", torch.tensor(0.0))
        self.register_buffer("average", torch.zeros(2))  # of R and D
        self.register_buffer("looks", torch.tensor(0))
        self.register_buffer("latest", torch.zeros(2), persistent=False)
        self._at(0.0)

    def forward(self, rate: Tensor, distortion: Tensor) -> Tensor:
        """The objective, a scalar; with several processes rates are those of the global batch."""
        columns, d = mean(rate.mean(0)), distortion.mean()
        r = columns.sum()
        if self.training and self.config.kind in TARGETS:
            self.latest.copy_(torch.stack([r.detach(), mean(d.detach())]))
        if self.config.kind == "free_bits":
            r = columns.view(self.groups, -1).sum(1).clamp(min=self.settings["nats"]).sum()
        if self.config.kind == "capacity":
            r = (r - self.capacity).abs()
        return d + self.price * r

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """To be called after each optimiser step with the share of training done."""
        if self.config.kind in TARGETS:
            self._follow()
        else:
            self._at(progress)

    def _at(self, progress: float) -> None:
        """What is a function of progress alone, and where the others start."""
        used, share = self.settings, 1.0
        if self.config.kind == "cyclical":
            within = 1.0 if progress >= 1 else progress * used["cycles"] % 1
            share = min(1.0, within / used["ramp"]) if used["ramp"] else 1.0
        elif "warmup" in used:
            share = min(1.0, progress / used["warmup"]) if used["warmup"] else 1.0
        if self.config.kind == "capacity":
            self.price.fill_(used["gamma"])
            self.capacity.fill_(share * used["nats"])
        else:
            self.price.fill_(share * used["beta"])

    def _follow(self) -> None:
        """Move the price by what the last steps measured."""
        seen = self.latest.isfinite().all()  # a NaN would stay in the average for ever
        before = torch.where(self.looks == 0, self.latest, self.average)
        self.looks.add_(seen)
        self.average.copy_(
            torch.where(seen, MEMORY * before + (1 - MEMORY) * self.latest, self.average)
        )
        if self.config.kind == "soft_free_bits":
            off = self.average[0] / self.settings["nats"] - 1
            factor = torch.where(off > BAND, FACTOR, torch.where(off < -BAND, 1 / FACTOR, 1.0))
            self.price.mul_(torch.where(seen & (self.looks % EVERY == 0), factor, 1.0))
        else:
            error, then = self._error(self.average), self._error(before)
            factor = torch.exp(INTEGRAL * error + PROPORTIONAL * (error - then))
            self.price.mul_(torch.where(seen, factor, 1.0))
        self.price.clamp_(*LIMITS)

    def _error(self, measured: Tensor) -> Tensor:
        """How much too much is kept, relative to what should be: above 0 the price has to rise. At
        most 1 either way.
        """
        target = self.settings["nats"]
        rate, distortion = (
            measured[0].clamp(min=1e-6),
            measured[1],
        )  # a sampled rate may fall below 0
        if self.config.kind == "target_rate":
            return torch.log(rate / target).clamp(-1, 1)
        return (
            (target - distortion) / (self.price * rate).clamp(max=abs(target) or math.inf)
        ).clamp(-1, 1)
