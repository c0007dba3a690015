"""Whether the code of a VAE carries anything: active units, and an upper bound on I(X; Z) in nats.

n = images, L = latent dimensions.
"""

from typing import NamedTuple

from torch import Tensor

from core.information.bounds import interval, sandwich
from core.information.codes import Codes
from core.information.scores import gaussian
from core.information.standardise import require_finite_features, require_finite_numbers

# variance of a posterior mean over images above which a unit is active (Burda et al. 2016)
ACTIVE = 0.01
NOTHING = 0.1  # nats: a code that carries less, a seventh of a bit, has collapsed


class CollapseStatus(NamedTuple):
    """What a code carries at most, and in how many of its dimensions."""

    nats: float  # min(R, leave-one-out upper bound), an upper bound on I(X; Z)
    active_units: int  # whose posterior mean varies; not those of so many nats
    dimensions: int

    @property
    def collapsed(self) -> bool:
        return self.nats < NOTHING

    @property
    def sentence(self) -> str:
        """For a person; empty where the code carries something."""
        if not self.collapsed:
            return ""
        return (
            f"collapsed: {self.active_units} of {self.dimensions} units active, z carries at most"
            f" {self.nats:.2f} nats"
        )


def active_units(mean: Tensor) -> int:
    """Dimensions whose posterior mean [n, L] varies over images by more than 0.01 (Burda et al.
    2016), on the scale of a unit prior.
    """
    return int((mean.var(0) > ACTIVE).sum())


def collapse_status(codes: Codes, upper: float | None = None) -> CollapseStatus:
    """The status of n >= 2 codes; reads the leave-one-out `upper` bound from them where it is not
    given.
    """
    require_finite_features(codes.mean, "collapse")
    if upper is None:
        upper = interval(*sandwich(gaussian(codes.mean, codes.sigma, codes.z))[1]).mean
    require_finite_numbers({"rate": codes.rate.mean().item(), "upper": upper}, "collapse")
    return CollapseStatus(
        max(0.0, min(upper, codes.rate.mean().item())),
        active_units(codes.mean),
        codes.mean.shape[1],
    )
