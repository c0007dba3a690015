"""An account of pretraining, computed from the log of a run: the nats by which the loss fell,
summed over all images that the run has seen.

T = logged steps, B = images of a step.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import Unmeasurable
from core.frozen import Frozen
from core.information.units import bits
from probes.probe import Found, Numbers, Probe, Value
from probes.report import figures

LARGEST = 2**28  # bytes of a log that are read
LEAST = 10  # logged steps
LAST = 0.05  # the final loss is the mean over the last steps, this share of all logged steps
# keys of the log that are in nats, each with the sign that turns its number into a loss, and with
# the name of this loss; the first key that occurs in the log is used
KEYS = {"nelbo": (1.0, "D + R, nats an image"), "train_bound": (-1.0, "−(log C − L), nats a view")}


class Curve(NamedTuple):
    """A loss in nats over steps of B images."""

    steps: NDArray[np.int64]  # [T], ascending
    loss: NDArray[np.float64]  # [T]
    key: str


def account(curve: Curve, batch: int) -> Numbers:
    """The area under the loss above its final value, in nats:

        A = B sum over steps of (loss - final),   final = mean of the last twentieth

    by the trapezium rule between logged steps; before the first one, the first loss is used. A is
    the length of a prequential code of the training stream minus the length of a code of the same
    stream with the final model. So if each image is seen once, A estimates how many nats the
    weights took from the data (Finzi et al. 2026 call this epiplexity). It is an estimate, not a
    bound. Over several epochs, A counts an image once for each epoch, but a code sends it only
    once. So A is then larger than this difference of lengths. A depends on the optimiser and its
    schedule. Two values of A can be compared only if their loss and augmentation are the same.

    Raises `Unmeasurable` for fewer than 10 logged steps.
    """
    count = len(curve.steps)
    if count < LEAST:
        raise Unmeasurable(f"the log has {count} steps with {curve.key}; it needs {LEAST}")
    final = float(curve.loss[-max(1, round(LAST * count)) :].mean())
    above = curve.loss - final
    area = float(np.trapezoid(above, curve.steps)) + float(curve.steps[0] * above[0])
    return {
        "nats": batch * area,
        "kbits": bits(batch * area) / 1000,
        "first": float(curve.loss[0]),
        "final": final,
        "estimator": curve.key,
        "images": int(curve.steps[-1]) * batch,
        "logged": count,
    }


def read_curve(path: Path, until: int) -> Curve:
    """The loss of a metrics.jsonl up to a step. Other lines, and values that are not finite
    numbers, are left out. If a step was logged again, its last value counts. Raises `Unmeasurable`
    for a file that is missing, too large, or has no loss in nats.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise Unmeasurable(f"{path.name} is larger than {LARGEST:,} bytes")
        with open(path, encoding="utf-8", errors="replace") as file:
            rows = [row for line in file if (row := _row(line)) and row["step"] <= until]
    except OSError:
        raise Unmeasurable("the run has no metrics.jsonl beside its checkpoint") from None
    for key, (sign, _) in KEYS.items():
        found = {row["step"]: sign * row[key] for row in rows if key in row}
        if found:
            steps = sorted(found)
            loss = np.array([found[step] for step in steps], dtype=np.float64)
            return Curve(np.array(steps, dtype=np.int64), loss, key)
    raise Unmeasurable(f"the log has no loss in nats ({' or '.join(KEYS)})")


def _row(line: str) -> dict[str, Any]:
    """The step and the finite numbers of a line, or nothing."""
    try:
        held = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(held, dict) or type(held.get("step")) is not int:
        return {}
    if not 0 <= held["step"] < 2**53:
        return {}
    kept = {
        key: float(held[key])
        for key in KEYS
        if type(held.get(key)) in (int, float) and abs(held[key]) < 1e300
    }
    return {"step": held["step"]} | {k: v for k, v in kept.items() if math.isfinite(v)}


class AccountProbe(Probe):
    """The fall of the training loss, summed over the images that a run has seen."""

    name, on_request = "account", True
    summary = "nats by which the training loss fell, summed over all images seen; not a bound"
    columns = ("pretraining kbit",)
    schema = """
        "nats" (area between the training loss and its final value; an estimate, not a bound),
        "kbits", "first", "final" (nats an image or view), "estimator" (the key of the log),
        "images" (seen, with repeats), "logged" (steps) """

    def measure(self, frozen: Frozen, **options: int) -> Found:
        if frozen.folder is None:
            raise Unmeasurable("needs a run with its log")
        curve = read_curve(frozen.folder.parent / "metrics.jsonl", frozen.step)
        return Found(account(curve, frozen.trained.optim.batch_size), {"curve": curve})

    def cells(self, numbers: Numbers) -> list[str]:
        return [f"{numbers['kbits']:,.0f}"]

    def values(self, numbers: Numbers) -> list[Value | str]:
        return [Value(numbers["kbits"], digits=0)]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {"account/nats": numbers["nats"], "account/kbits": numbers["kbits"]}

    def sentences(self, numbers: Numbers) -> list[str]:
        return [
            f"account of pretraining: {numbers['kbits']:,.0f} kbit, the area between the training"
            f" loss and its final value of {numbers['final']:.2f}"
            f" ({KEYS[numbers['estimator']][1]}), over {numbers['images']:,} images seen, repeats"
            " included; it is an estimate, not a bound; do not compare it with the account of a"
            " run that has another loss"
        ]

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        path, curve = folder / "account.png", found.arrays["curve"]
        with figures.picture(path, figsize=(7, 4.2)) as (_, axes):
            axes.plot(curve.steps, curve.loss, color=figures.COLOURS[0], linewidth=1.2)
            final = found.numbers["final"]
            look: Any = {"color": figures.COLOURS[0], "alpha": 0.25, "linewidth": 0}
            axes.fill_between(curve.steps, curve.loss, final, **look)
            axes.axhline(final, color=figures.GREY, linestyle="--", linewidth=1)
            axes.set(xlabel="step", ylabel=KEYS[curve.key][1])
            axes.set_title(f"The area is {found.numbers['kbits']:,.0f} kbit")
        return {"account": path}
