"""Posterior collapse: active units of a VAE's code, and an upper bound on I(X; Z) in nats.

n = images, L = latent dimensions.
"""

from typing import NamedTuple

from torch import Tensor

from core.information.bounds import interval, sandwich
from core.information.codes import Codes
from core.information.scores import gaussian
from core.information.standardise import require_finite_features, require_finite_numbers

ACTIVE = 0.01  # variance of a posterior mean above which a unit is active (Burda et al. 2016)
NOTHING = 0.1  # nats (a seventh of a bit); a code with less information has collapsed


class CollapseStatus(NamedTuple):
    """An upper bound on the information in a code, and the number of its active dimensions."""

    nats: float  # min(R, leave-one-out upper bound), an upper bound on I(X; Z)
    active_units: int  # dimensions whose posterior mean varies
    dimensions: int

    @property
    def collapsed(self) -> bool:
        return self.nats < NOTHING

    @property
    def sentence(self) -> str:
        """The status in words; empty if the code is not collapsed."""
        if not self.collapsed:
            return ""
        units = f"{self.active_units} of {self.dimensions} units active"
        return f"collapsed: {units}, z carries at most {self.nats:.2f} nats"


def active_units(mean: Tensor) -> int:
    """Dimensions of posterior means [n, L] with a variance above 0.01 (Burda et al. 2016)."""
    return int((mean.var(0) > ACTIVE).sum())


def collapse_status(codes: Codes, upper: float | None = None) -> CollapseStatus:
    """The status of n >= 2 codes. `upper`: their leave-one-out bound, if already known."""
    require_finite_features(codes.mean, "collapse")
    if upper is None:
        upper = interval(*sandwich(gaussian(codes.mean, codes.sigma, codes.z))[1]).mean
    rate = codes.rate.mean().item()
    require_finite_numbers({"rate": rate, "upper": upper}, "collapse")
    nats = max(0.0, min(upper, rate))
    return CollapseStatus(nats, active_units(codes.mean), codes.mean.shape[1])
