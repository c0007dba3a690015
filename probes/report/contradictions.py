"""Reports that contradict themselves: their numbers were changed after they were measured.

Each rule holds exactly, up to rounding, for all data and all encoders. A rule that holds only on
average would refuse honest reports.
"""

import math
from collections.abc import Iterator
from typing import Any, TypeGuard

from probes.report.schema import Report

CENTRES = ("value", "bound", "gain", "recall")  # numbers between the "low" and "high" beside them
# numbers between 0 and 1; a "/" and the name of a label column may follow
SHARES = {"top1", "best_top1", "recall", "chance", "confidence", "dead_dimensions"}
COUNTS = {"images", "candidates", "blocks", "dimensions", "latent_dimensions", "active_units"}
COUNTS |= {"copies_left_out", "lidar_images", "train_images", "captions", "distinct_captions"}
OF_ALL = ("information", "captions", "zero_shot", "geometry", "rate")  # read the whole test split
ROUNDING = 1e-5  # numbers are means of float32 values


def contradiction(report: Report, name: str) -> str:
    """The first contradiction among the numbers of a probe, as text that begins with the place of
    the number, or "". Raises an error of Python if they do not have the form of that probe.
    """
    inside = next(_inside(report[name], name), "")
    return inside or _other_images(report[name], name, _images_of(report))


def _inside(held: Any, place: str) -> Iterator[str]:
    """The contradictions of a part of a report and of everything in it."""
    if isinstance(held, dict):
        for key, value in held.items():
            if _is_number(value):
                yield from _alone(key, value, place)
        yield from _interval(held, place)
        yield from _bound(held, place)
        yield from _parts(held, place)
    numbered = dict(enumerate(held)) if isinstance(held, list) else {}
    for key, part in (held if isinstance(held, dict) else numbered).items():
        yield from _inside(part, f"{place}.{key}")


def _alone(key: str, value: float, place: str) -> Iterator[str]:
    """A number that no encoder can have."""
    word = key.partition("/")[0]
    if word in SHARES and not -ROUNDING <= value <= 1 + ROUNDING:
        yield f"{place}.{key} is {value:g}, but a share lies between 0 and 1"
    if word in COUNTS and not (value >= 0 and value == int(value)):
        yield f"{place}.{key} is {value:g}, but a count is a whole number, 0 or more"


def _interval(held: dict[str, Any], place: str) -> Iterator[str]:
    """A number outside its own interval. A number with a "chance" is a share."""
    if "chance" in held and _is_number(held.get("value")):
        yield from _alone("chance", held["value"], place)
    if not (_is_number(held.get("low")) and _is_number(held.get("high"))):
        return
    for key in CENTRES:
        if _is_number(held.get(key)) and not (
            _at_most(held["low"], held[key]) and _at_most(held[key], held["high"])
        ):
            yield (
                f"{place}.{key} is {held[key]:g}, outside its interval from {held['low']:g} to"
                f" {held['high']:g}"
            )


def _bound(held: dict[str, Any], place: str) -> Iterator[str]:
    """A bound with C candidates above log C, or a certificate whose lower limit is above its
    mean.
    """
    count, bound = held.get("candidates"), held.get("bound", held.get("point"))
    if not _is_number(count):
        return
    if count < 1:
        yield f"{place}.candidates is {count:g}, which is too few"
        return
    most = math.log(count)
    if _is_number(bound) and not _at_most(bound, most):
        yield f"{place} has the bound {bound:g}, above its ceiling log {count:,} = {most:.4g}"
    if _is_number(held.get("ceiling")) and not _same(held["ceiling"], most):
        yield f"{place}.ceiling is {held['ceiling']:g}, but log {count:,} is {most:.4g}"
    if _is_number(held.get("K")) and held["K"] != count - 1:
        yield f"{place}.K is {held['K']:g}, but it has {count:,} candidates"
    if _is_number(held.get("point")) and not _at_most(held.get("low", 0.0), held["point"]):
        yield f"{place}.low is {held['low']:g}, above its mean {held['point']:g}"


def _parts(held: dict[str, Any], place: str) -> Iterator[str]:
    """Numbers of one part that do not fit together, such as D + R and the sum of D and R."""
    values = [held[k].get("value") if isinstance(held.get(k), dict) else None
              for k in ("rate", "distortion", "nelbo", "lower")]  # fmt: skip
    rate, distortion, nelbo, lower = values
    whole = distortion + rate if _is_number(distortion) and _is_number(rate) else None
    if _is_number(nelbo) and whole is not None and not _same(whole, nelbo):
        yield f"{place}.nelbo is {nelbo:g}, but D + R is {whole:g}"
    pairs = [("active_units", held.get("active_units"), "latent_dimensions"),
             ("lower", lower, "ceiling")]  # fmt: skip
    for key, value, most in pairs:
        if _is_number(value) and _is_number(held.get(most)) and not _at_most(value, held[most]):
            yield f"{place}.{key} is {value:g}, above its {most} {held[most]:g}"


def _other_images(part: dict[str, Any], name: str, images: int | None) -> str:
    """The contradiction if a part counts more or fewer images than it can have, else ""."""
    counted, copies = part.get("images"), part.get("copies_left_out")
    if not _is_number(counted) or part.get("split", "test") != "test":
        return ""
    critics = part.get("critics")
    for key, critic in critics.items() if isinstance(critics, dict) else ():
        last = critic["sweep"][-1].get("candidates", counted)
        if last != counted:
            return f"{name}.critics.{key} has up to {last:,} candidates, but {counted:,} images"
    total = counted + (copies if _is_number(copies) else 0)
    if images is not None and (total > images or name in OF_ALL and total != images):
        return f"{name} counts {total:,} images, but the test split has {images:,}"
    return ""


def _images_of(report: Report) -> int | None:
    """The images of the test split, if the report's identity says it."""
    found: Any = report["identity"]
    for key in ("data", "test", "images"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if type(found) is int else None


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float)


def _at_most(value: float, most: float) -> bool:
    return value <= most + ROUNDING * (1 + abs(most))


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-4)
