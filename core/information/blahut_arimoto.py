"""The Blahut-Arimoto algorithm: two-sided bounds on R(D) of a small discrete source.

n = letters of the source, m = letters of the reproduction.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Bracket(NamedTuple):
    """Bounds on R(D) at one distortion, and the code that attains the upper one."""

    distortion: float  # E d(x, y) of the code
    lower: float  # nats; lower <= R(distortion) <= upper
    upper: float  # I(X; Y) of the code
    # the slope of a line below R(D); at `distortion` the line is at most upper - lower below R(D)
    slope: float
    conditional: Array  # p(y|x) of the code, [n, m]
    steps: int


def blahut_arimoto(
    probabilities: ArrayLike,
    distortions: ArrayLike,
    slope: float,
    gap: float = 1e-6,
    most: int = 100_000,
) -> Bracket:
    """The point of R(D) with dR/dD = `slope` < 0, for a source p(x) [n] and distortions d(x, y)
    [n, m].

    The reproduction's distribution q starts uniform and is multiplied repeatedly by

        c(y) = sum_x p(x) e^{s d(x, y)} / Z(x),   Z(x) = sum_y q(y) e^{s d(x, y)},

    until upper - lower <= `gap` nats. With p(y|x) = q(y) e^{s d(x, y)} / Z(x) and D = E d,

        s D - E log Z - log max_y c(y)  <=  R(D)
        R(D)  <=  s D - E log Z - sum_y q(y) c(y) log c(y) = I(X; Y).

    Blahut 1972 (theorem 6 and its corollary); Arimoto 1972; convergence: Csiszar 1974; Cover &
    Thomas, section 10.8. Raises `ValueError` for invalid arguments, and if the gap is
    still open after `most` steps.
    """
    p, d = _checked(probabilities, distortions)
    if not -math.inf < slope < 0:
        raise ValueError(f"slope: must be below 0, got {slope}")
    if not gap > 0:
        raise ValueError(f"gap: must be above 0 nats, got {gap}")
    p, d = p[p > 0], d[p > 0]
    least = d.min(1)
    # a factor that depends on x alone cancels in p(y|x); this one prevents an underflow of the
    # kernel
    kernel = np.exp(slope * (d - least[:, None]))
    q = np.full(d.shape[1], 1 / d.shape[1])
    for _step in range(1, most + 1):
        z = kernel @ q
        c = (p / z) @ kernel
        moved = q * c
        lowered = math.log(c.max())
        raised = float((moved * np.log(np.where(moved > 0, c, 1.0))).sum())
        if lowered - raised <= gap:
            break
        q = moved
    else:
        raise ValueError(
            f"gap: {lowered - raised:.2g} nats remain after {most} steps; allow a wider gap, or"
            " more steps with `most`"
        )
    conditional = kernel * q / z[:, None]
    distortion = float(p @ (conditional * d).sum(1))
    above_z = slope * distortion - float(p @ (np.log(z) + slope * least))
    whole = np.zeros_like(np.asarray(distortions, dtype=np.float64))
    whole[np.asarray(probabilities) > 0] = conditional
    return Bracket(
        distortion, max(0.0, above_z - lowered), max(0.0, above_z - raised), slope, whole, _step
    )


def _checked(probabilities: ArrayLike, distortions: ArrayLike) -> tuple[Array, Array]:
    p, d = np.asarray(probabilities, dtype=np.float64), np.asarray(distortions, dtype=np.float64)
    if p.ndim != 1 or not p.size:
        raise ValueError(f"probabilities: must be a vector, got the shape {list(p.shape)}")
    if not (np.isfinite(p).all() and p.min() >= 0 and abs(p.sum() - 1) < 1e-9):
        raise ValueError(
            f"probabilities: must be 0 or more and sum to 1, got a minimum of {p.min():g} and a sum"
            f" of {p.sum():.10g}"
        )
    if d.ndim != 2 or d.shape[0] != len(p) or not d.shape[1]:
        raise ValueError(
            f"distortions: must be [{len(p)}, m], one row per letter of the source, got the shape"
            f" {list(d.shape)}"
        )
    if not (np.isfinite(d).all() and d.min() >= 0):
        raise ValueError("distortions: must be finite and 0 or more")
    return p, d
