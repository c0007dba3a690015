"""Reports whose numbers are all different, and the numbers that a text shows."""

import re


def part(value: float, low: float = 0.0, high: float = 0.0, **more: object) -> dict:
    """A number with its interval."""
    low, high = low or value - 0.25, high or value + 0.5
    return {"value": value, "low": low, "high": high, "estimator": "how", "side": "side"} | more


def read(lines: list[str]) -> list[float]:
    """The numbers in texts, in their order."""
    found = re.findall(
        r"(?<!\w)-?\d[\d,]*\.?\d*", " ".join(lines).replace("−", "-").replace("top-1", "")
    )
    return [float(number.replace(",", "").rstrip(".")) for number in found]
