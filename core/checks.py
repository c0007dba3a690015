"""Range checks of config fields. Each raises ValueError("key: what is wrong")."""

import math
from collections.abc import Iterable
from typing import Any


def at_least(config: Any, prefix: str = "", **lowest: float) -> None:
    """Each named field is finite and not below its lowest value."""
    for key, low in lowest.items():
        if not low <= getattr(config, key) < math.inf:
            raise ValueError(f"{prefix}{key}: must be {low} or more, got {getattr(config, key)}")


def above_zero(config: Any, *keys: str, prefix: str = "") -> None:
    """Each named field is finite and above 0."""
    for key in keys:
        if not 0 < getattr(config, key) < math.inf:
            raise ValueError(f"{prefix}{key}: must be above 0, got {getattr(config, key)}")


def counts(config: Any, prefix: str = "", **highest: int) -> None:
    """Each named field lies between 1 and its highest value."""
    for key, high in highest.items():
        if not 1 <= getattr(config, key) <= high:
            raise ValueError(f"{prefix}{key}: must be from 1 to {high}, got {getattr(config, key)}")


def share(config: Any, *keys: str) -> None:
    """Each named field lies between 0 and 1."""
    for key in keys:
        if not 0 <= getattr(config, key) <= 1:
            raise ValueError(f"{key}: must be in [0, 1], got {getattr(config, key)}")


def one_of(config: Any, **choices: Iterable[str]) -> None:
    """Each named field is one of its choices."""
    for key, names in choices.items():
        if getattr(config, key) not in (allowed := tuple(names)):
            raise ValueError(f"{key}: '{getattr(config, key)}' is not one of {', '.join(allowed)}")


def timeout(seconds: float) -> None:
    """A waiting time is above 0 seconds and at most a year."""
    if not 0 < seconds <= 86400 * 365:
        raise ValueError(f"timeout: must be above 0 seconds and at most a year, got {seconds}")
