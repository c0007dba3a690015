"""The verdict on a sweep of InfoNCE over the number of candidates."""

import math

from core.errors import Unmeasurable
from core.information.bounds import Estimate

# Slopes, in nats per e-fold of candidates: below FLAT, more candidates add little; above STEEP,
# the curve follows its ceiling.
FLAT, STEEP = 0.05, 0.5
RISING = 0.025  # share of the value; if this is larger than FLAT, it is used instead of FLAT
NEAR = 0.95  # share of a ceiling above which a value is saturated
GAIN = 0.03  # share of a value that the second half of the training pairs may bring
UNKNOWN = 0.1  # share of a value that the upper limit of this gain may reach
AGREEING = 0.03  # share of a value by which single critics may be below their mean
NOTHING = 0.05  # nats below zero that overfitting alone can cause


def cosine_cap(scale: float, candidates: int) -> float:
    """The bound's maximum for s = scale <q, k> with unit codes, in nats:

    log C - log(1 + (C - 1) exp(-2 scale))
    """
    return math.log(candidates) - math.log1p((candidates - 1) * math.exp(-2 * scale))


def verdict(
    sweep: list[tuple[int, Estimate]],
    images: int,
    calibration: float | None = None,
    cap: float = math.inf,
    gain: Estimate | None = None,
    single: float | None = None,
) -> str:
    """The verdict on the last number of a sweep: what limits it, or "converged".

    - nothing found: its interval reaches down to zero or below, and its mean is above -0.05 nats.
    - critic-limited: it is below zero, or far below `calibration`, the bound at the last C on the
      split that was used to choose the critic.
    - saturated: near log C, log n or `cap` (the critic's maximum), or rising more than half as
      fast as log C.
    - K-limited: still rising with log C, and doubling the candidates would add more nats than
      doubling the training pairs.
    - data-limited: still rising with the number of training pairs. `gain`: the value minus the
      value of the same critics trained on half of the pairs. If the upper limit of `gain` is more
      than 10% of the last number, the verdict is also data-limited: then the pairs are too few to
      show that more of them would add little. `single`: the value of one critic, if the last number
      is that of the mean of several critics that were trained on different pairs. If it is far
      below the last number, the verdict is also data-limited, because the critics differ by chance,
      and would differ less with more pairs.

    The ratio to log C alone does not show saturation: I = 4 gives 3.55 at C = 256, which is 64% of
    log C but 0.45 too low. So the slope is used, too. Raises `Unmeasurable` for NaN and infinite
    numbers.
    """
    numbers = [value for _, found in sweep for value in found]
    numbers += [calibration or 0.0, single or 0.0, *(gain or (0.0,))]
    if math.isnan(cap) or not all(map(math.isfinite, numbers)):
        raise Unmeasurable(
            "the bound is not a finite number at some number of candidates, so it has no verdict;"
            " check the features and the critic's scale"
        )
    candidates, last = sweep[-1]
    ceiling = min(math.log(candidates), math.log(images), cap)
    if last.low <= 0 and last.mean > -NOTHING:
        return "nothing found"
    drop = 0.0 if calibration is None else calibration - last.mean
    if last.mean <= 0 or drop > max(0.1, 0.05 * abs(last.mean), 4 * last.error):
        return "critic-limited"
    before = next(((c, e) for c, e in reversed(sweep[:-1]) if c <= candidates / 2), None)
    slope = (last.mean - before[1].mean) / math.log(candidates / before[0]) if before else math.inf
    if last.mean > NEAR * ceiling or STEEP < slope < math.inf:
        return "saturated"
    rising = slope > max(FLAT, RISING * last.mean)
    if gain and wants_data(last.mean, gain) and (not rising or gain.mean > slope * math.log(2)):
        return "data-limited"
    if rising:
        return "K-limited"
    differs = single is not None and differ(last, single)
    few = gain is not None and is_unknown(last.mean, gain)
    return "data-limited" if differs or few else "converged"


def wants_data(value: float, gain: Estimate) -> bool:
    """Whether twice the training pairs would add much: `gain`, which the second half of the pairs
    added, is a notable share of the value and larger than chance.
    """
    return gain.mean > max(GAIN * value, 2 * gain.error)


def is_unknown(value: float, gain: Estimate) -> bool:
    """Whether the pairs are too few to exclude that more of them would add much: the upper limit of
    `gain` is a large share of the value.
    """
    return gain.high > UNKNOWN * value


def differ(value: Estimate, single: float) -> bool:
    """Whether single critics give notably less than their mean, and chance does not explain it."""
    return value.mean - single > max(AGREEING * value.mean, 2 * value.error)
