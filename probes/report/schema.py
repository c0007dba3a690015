"""The content of a report. Each probe describes its own part (`Probe.schema`).

    {
      "format": "twobounds-probe/2",
      "checkpoint": path, "digest": sha256 of its bytes, "method": name, "step": int,
      "data": name, "seed": int,
      "config_key": digest of the config, without the seed and keys that do not change numbers,
      "identity": everything that determines the numbers: weights, data, seeds, versions,
      "options": {PROBE: {KEY: VALUE}}, "absent": {PROBE: why it has no numbers},
      "code": {PROBE: sha256 of the code of a user's own probe},
      "pictures": {PROBE: [names of its files beside the report]},
      PROBE: its numbers, for each measured probe
    }

All numbers are finite. Information is in nats, intervals are 95%.
"""

import math
from typing import Any

from core.information.bounds import Estimate
from core.information.units import bits_per_dim

FORMAT = "twobounds-probe/2"
# keys that are not names of probes; "file" and "signature" are added to a report on disk
KEYS = {"format", "checkpoint", "digest", "method", "step", "data", "seed", "config_key"}
KEYS |= {"identity", "options", "code", "absent", "pictures", "file", "signature"}
Report = dict[str, Any]


def bounds(estimate: Estimate) -> dict[str, float]:
    """An estimate and its interval, in the form of a report."""
    return {"value": estimate.mean, "low": estimate.low, "high": estimate.high}


def entry(estimate: Estimate, estimator: str, side: str, values: int | None) -> dict[str, Any]:
    """An estimate in nats an image, with its estimator and side. For an image of `values` discrete
    values, also in bits per dimension.
    """
    per_dim = {"bits_per_dim": bits_per_dim(estimate.mean, values)} if values else {}
    return bounds(estimate) | per_dim | {"estimator": estimator, "side": side}


def bits(found: dict[str, Any], digits: int) -> str:
    """Text that follows an estimate: " (… bits/dim)" for discrete pixels, else nothing."""
    return f" ({found['bits_per_dim']:.{digits}f} bits/dim)" if "bits_per_dim" in found else ""


def not_finite(held: Any, place: str = "") -> str:
    """The path of the first number in nested dicts and lists that is not finite, or ""."""
    if isinstance(held, float) and not math.isfinite(held):
        return place
    parts: dict[Any, Any] = held if isinstance(held, dict) else {}
    if isinstance(held, list | tuple):
        parts = dict(enumerate(held))
    inner = (not_finite(part, f"{place}.{key}".lstrip(".")) for key, part in parts.items())
    return next((found for found in inner if found), "")
