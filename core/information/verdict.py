"""What a sweep of InfoNCE over the number of candidates says about itself."""

import math

from core.errors import Unmeasurable
from core.information.bounds import Estimate

FLAT, STEEP = (
    0.05,
    0.5,
    # nats an e-fold of candidates: below FLAT more would add little, above STEEP the ceiling is
    # what is seen
)
NEAR = 0.95  # of a ceiling


def cosine_cap(scale: float, candidates: int) -> float:
    """No critic s = scale <q, k> with unit codes passes log C - log(1 + (C - 1) exp(-2 scale))."""
    return math.log(candidates) - math.log1p((candidates - 1) * math.exp(-2 * scale))


def verdict(
    sweep: list[tuple[int, Estimate]],
    images: int,
    calibration: float | None = None,
    cap: float = math.inf,
) -> str:
    """The word for the last number of a sweep: critic-limited, saturated, K-limited or converged.

    - critic-limited: not above zero, or far below its value on the split that chose the critic
      (`calibration`, at the last C).
    - saturated: near log C, log n or `cap`, the most that the critic can show, or rising almost as
      log C does.
    - K-limited: still rising with log C.

    Raises `Unmeasurable` for a number that is NaN or infinite, of which every comparison is false.

    The ratio to log C alone does not show saturation (I = 4 reads 3.55 at C = 256, 64% of log C and
    still 0.45 low), so the slope counts.
    """
    numbers = [value for _, found in sweep for value in found] + [calibration or 0.0]
    if math.isnan(cap) or not all(map(math.isfinite, numbers)):
        raise Unmeasurable(
            "the bound is not a finite number at some number of candidates, so it has no verdict;"
            " look at the features and at the critic's scale"
        )
    candidates, last = sweep[-1]
    ceiling = min(math.log(candidates), math.log(images), cap)
    if last.mean <= 0 or (
        calibration is not None
        and calibration - last.mean > max(0.1, 0.05 * abs(last.mean), 4 * last.error)
    ):
        return "critic-limited"
    before = next(((c, e) for c, e in reversed(sweep[:-1]) if c <= candidates / 2), None)
    slope = (last.mean - before[1].mean) / math.log(candidates / before[0]) if before else math.inf
    if last.mean > NEAR * ceiling or STEEP < slope < math.inf:
        return "saturated"
    return "K-limited" if slope > FLAT else "converged"
