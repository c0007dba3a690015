"""The training objective from rate and distortion, and the schedule of the price of a nat of rate.

R = rate and D = distortion, both in nats per image. B = images on this process. G = terms of an
image's rate, one per dimension for most priors. * marks a target, which is `nats` in the config.

    constant           D + beta R
                       (Kingma & Welling 2014; Higgins et al. 2017)
    linear             the same; beta rises from 0 over `warmup`  (Bowman et al. 2016)
    cyclical           the same; in each of `cycles` cycles, beta rises over the share `ramp` and
                       then stays constant  (Fu et al. 2019)
    free_bits          D + beta sum_g max(nats, R_g); R_g is the batch mean of the rate of `group`
                       dimensions
                       (Kingma et al. 2016)
    soft_free_bits     D + price R; every 10 steps the price is multiplied by 1.1 if R is more than
                       5% above R*, and divided by 1.1 if it is more than 5% below
                       (Chen et al. 2017)
    capacity           D + gamma |R - C|; C rises from 0 to `nats` over `warmup`
                       (Burgess et al. 2018)
    target_rate        D + price R; the price is a Lagrange multiplier that holds R = R*
                       (Rezende & Viola 2018)
    target_distortion  the same, for D = D*

Only the objective contains the price. Methods log R, D and D + R (beta 1), and the price.
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
# the kinds whose price follows the measured rate or distortion
TARGETS = ("soft_free_bits", "target_rate", "target_distortion")
MEMORY = 0.95  # weight of the old value in the moving average of rate and distortion
# soft free bits: steps between two changes, the factor of a change, the tolerance
EVERY, FACTOR, BAND = 10, 1.1, 0.05
# the multiplier's logarithm changes in each step by INTEGRAL times the relative error, and by
# PROPORTIONAL times the change of this error
INTEGRAL, PROPORTIONAL = 0.05, 3.0
LIMITS = (1e-4, 1e4)  # of a price, so that it can come back after an unreachable target


@dataclass
class RateConfig:
    """The price of rate. Fields that the kind does not use stay null."""

    # how the price of rate is set: constant | linear | cyclical | free_bits | soft_free_bits |
    # capacity | target_rate | target_distortion
    kind: str = "constant"
    # the price of a nat of rate (default 1); for soft_free_bits and the targets, the first price
    beta: float | None = None
    # share of the training in which beta (default 0.1) or C (default 0.5) rises
    warmup: float | None = None
    cycles: int | None = None  # number of cycles (default 4)
    ramp: float | None = None  # share of a cycle in which beta rises (default 0.5)
    # the price of a nat of difference between rate and capacity (default 100)
    gamma: float | None = None
    nats: float | None = None  # free_bits: free nats of a group; other kinds: the target R, C or D
    group: int | None = None  # dimensions that share their free bits (default 1); 0 = all

    def __post_init__(self) -> None:
        used = self.settings()
        unit, positive = ("in [0, 1]", 1.0), ("0 or more", math.inf)
        limits = {"beta": positive, "gamma": positive, "group": positive}
        for key, (words, high) in (limits | {"warmup": unit, "ramp": unit}).items():
            if key in used and not (0 <= used[key] <= high and math.isfinite(used[key])):
                raise ValueError(f"rate.{key}: must be {words}, got {used[key]}")
        if used.get("cycles", 1) < 1:
            raise ValueError(f"rate.cycles: must be 1 or more, got {used['cycles']}")
        if self.kind in TARGETS and used["beta"] == 0:
            raise ValueError(f"rate.beta: must be above 0, because {self.kind} multiplies it")
        # the distortion of a density may be negative
        least = -math.inf if self.kind == "target_distortion" else 0.0
        if "nats" in used and not (math.isfinite(used["nats"]) and used["nats"] >= least):
            words = "finite" if least else "0 or more"
            raise ValueError(f"rate.nats: must be {words}, got {used['nats']}")
        if self.kind in ("soft_free_bits", "target_rate") and used["nats"] == 0:
            raise ValueError(f"rate.nats: {self.kind} needs a target rate above 0")

    def settings(self) -> dict[str, Any]:
        """The fields that the kind uses, with defaults."""
        return settings(self, KINDS, "rate")


class RateSchedule(nn.Module):
    """Maps rate [B, G] and distortion [B] to the training objective. `after_step(progress)` changes
    the price. All state is in buffers.

    For target_rate and target_distortion, the price is a multiplier that changes in each step:

        log price += INTEGRAL e + PROPORTIONAL (e - e of the step before),

    where e is the relative error of a moving average. For a rate, e = log(R / R*). For a
    distortion, e = (D* - D) / min(price R, |D*|), because along R(D) a nat of D costs 1 / price
    nats of R. A step whose rate or distortion is not finite changes nothing.
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
            given = f"the rate has {columns} terms, which can not be divided into groups of {group}"
            raise UserError(f"model.rate.group: {given}")
        self.groups = columns // group
        self.register_buffer("price", torch.tensor(0.0))
        self.register_buffer("capacity", torch.tensor(0.0))
        self.register_buffer("average", torch.zeros(2))  # of R and D
        self.register_buffer("looks", torch.tensor(0))
        self.register_buffer("latest", torch.zeros(2), persistent=False)
        self._at(0.0)

    def forward(self, rate: Tensor, distortion: Tensor) -> Tensor:
        """The objective, a scalar. With several processes, rates are those of the global batch."""
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
        """Call this after each optimiser step, with the share of training done."""
        if self.config.kind in TARGETS:
            self._follow()
        else:
            self._at(progress)

    def _at(self, progress: float) -> None:
        """Set the price, and the capacity, from the progress alone. For kinds whose price follows a
        measurement, this is done only once, at progress 0.
        """
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
        """Change the price according to the measured rate or distortion."""
        seen = self.latest.isfinite().all()  # a NaN would stay in the average forever
        before = torch.where(self.looks == 0, self.latest, self.average)
        self.looks.add_(seen)
        moved = MEMORY * before + (1 - MEMORY) * self.latest
        self.average.copy_(torch.where(seen, moved, self.average))
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
        """The relative error in [-1, 1]. If it is above 0, the price must rise."""
        target = self.settings["nats"]
        rate, distortion = measured[0].clamp(min=1e-6), measured[1]  # sampled rates may be below 0
        if self.config.kind == "target_rate":
            return torch.log(rate / target).clamp(-1, 1)
        scale = (self.price * rate).clamp(max=abs(target) or math.inf)
        return ((target - distortion) / scale).clamp(-1, 1)
