"""The explainer of bits-back coding: the bits that a checkpoint's own codec popped and pushed."""

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probes.probe import Numbers
from probes.report.comparison import file_of
from probes.report.groups import Group
from probes.report.page.content import tried
from probes.report.page.gallery import encoded
from probes.report.schema import Report

MOST, IMAGES, STOPS = 6, 10, 16  # checkpoints, images of a chain, and places to stop
PICTURE, WIDTH = "compression_stops.png", 640
MOVED = ("start", "popped", "pixels", "prior", "d", "r")
STOP = ("dimensions", "written", "rate", "distortion")


def chains(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """For each group, from its first run with numbers of the compression probe: the bits that each
    image of a chain pops and pushes, in the order of coding. Also what a receiver knows after only
    the first dimensions of a code.
    """
    found: list[dict[str, Any]] = []
    for place, group in enumerate(groups):
        report: Report = next((one for one in group.reports if "compression" in one), {})
        numbers = report.get("compression", {})
        if numbers.get("moves") and len(found) < MOST:
            made = tried("compression", [group], lambda numbers=numbers: _chain(numbers))
            found.append({"run": place} | made | _picture(report, len(made["stops"])))
    return found


def _picture(report: Report, stops: int) -> dict[str, Any]:
    """The picture: a row of images, then a row of what a receiver knows at each stop."""
    named: Any = report.get("pictures")
    names = named.get("compression") if isinstance(named, dict) else None
    path = Path(file_of(report)).parent / PICTURE
    if not (stops and isinstance(names, list) and PICTURE in names and os.path.isfile(path)):
        return {}
    made = encoded(path, WIDTH)
    if isinstance(made, str):
        return {}
    content, (width, height) = made
    url = "data:image/webp;base64," + base64.b64encode(content).decode()
    return {"picture": url, "width": width, "height": height}


def _chain(numbers: Numbers) -> dict[str, Any]:
    return {
        "values": float(numbers["image_values"]),
        "moves": [
            {key: round(float(move[key]), 2) for key in MOVED} for move in numbers["moves"][:IMAGES]
        ],
        "stops": [
            {key: round(float(stop[key]), 2) for key in STOP}
            for stop in numbers.get("partial", [])[:STOPS]
        ],
    }
