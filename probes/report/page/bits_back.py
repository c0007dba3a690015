"""The explainer of bits-back coding: the bits that a checkpoint's own codec popped and pushed."""

from collections.abc import Sequence
from typing import Any

from probes.probe import Numbers
from probes.report.groups import Group
from probes.report.page.content import tried

MOST, IMAGES, STOPS = 6, 10, 16  # checkpoints, images of a chain, and places to stop
MOVED = ("start", "popped", "pixels", "prior", "d", "r")
STOP = ("dimensions", "written", "rate", "distortion")


def chains(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """For the first run of each group with such numbers: what each image of a chain moves, in the
    order of coding, and what a reader has who stops after some dimensions of the codes. In bits.
    """
    found: list[dict[str, Any]] = []
    for place, group in enumerate(groups):
        runs = group.runs("compression")
        if runs and runs[0].get("moves") and len(found) < MOST:
            made = tried("compression", [group], lambda numbers=runs[0]: _chain(numbers))
            found.append({"run": place} | made)
    return found


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
