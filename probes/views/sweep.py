"""The InfoNCE bound of paired codes for several numbers of candidates C, with a verdict."""

from typing import NamedTuple

from torch import Tensor

from core.information.bounds import Estimate, infonce_sweep, infonce_terms, interval
from core.information.verdict import cosine_cap, verdict


class Sweep(NamedTuple):
    """Bounds in nats by C, the critic's largest possible value, and the verdict at the largest
    C.
    """

    bounds: list[tuple[int, Estimate]]
    cap: float
    verdict: str
    gain: Estimate | None  # of the second half of the training pairs


class Halved(NamedTuple):
    """Codes [n, P] of the same pairs by a critic that had half of the training pairs."""

    query: Tensor
    key: Tensor
    scale: float


def counts_up_to(n: int) -> list[int]:
    """The numbers of candidates of a sweep: 2^4 + 1, 2^5 + 1, ... and n."""
    return [c for c in (2**e + 1 for e in range(4, 40)) if c < n] + [n]


def sweep_over(
    query: Tensor,
    key: Tensor,
    scale: float,
    calibration: tuple[Tensor, Tensor] | None,
    halved: Halved | None = None,
) -> Sweep:
    """The bound at C = 2^4 + 1, 2^5 + 1, ... and n, for scores scale <query, key> of codes [n, P].

    `calibration`: other codes, on which the critic was chosen. The difference between the two
    splits, at the same C, shows whether the critic limits the bound. The difference from `halved`
    shows whether the number of training pairs limits it.
    """
    n = len(query)
    counts = counts_up_to(n)
    swept = infonce_sweep(query, key, scale, counts)
    found = [interval(*bound) for bound in swept]
    sizes = [c for c in counts if calibration and c <= len(calibration[0])]
    expected = None
    if calibration and sizes:
        on_calibration = infonce_terms(*calibration, scale, sizes[-1:]).mean().item()
        expected = found[-1].mean + on_calibration - found[counts.index(sizes[-1])].mean
    bounds, cap = list(zip(counts, found, strict=True)), cosine_cap(scale, n)
    gain = None
    if halved:
        (half,) = infonce_sweep(*halved, [n])
        whole = swept[-1]
        gain = interval(whole.terms - half.terms, whole.influence - half.influence)
    return Sweep(bounds, cap, verdict(bounds, n, expected, cap, gain), gain)
