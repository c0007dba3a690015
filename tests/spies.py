"""Record with which arguments a function is called, by their names."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest


def spy(
    monkeypatch: pytest.MonkeyPatch,
    place: Any,
    name: str,
    instead: Callable[..., Any] | None = None,
) -> list[dict[str, Any]]:
    """The calls of `place.name` from now on, each as its arguments with their defaults. `instead`
    is called in place of the function.
    """
    real, calls = getattr(place, name), []
    known = inspect.signature(real)

    def called(*given: Any, **named: Any) -> Any:
        bound = known.bind(*given, **named)
        bound.apply_defaults()
        calls.append(dict(bound.arguments))
        return (instead or real)(*given, **named)

    monkeypatch.setattr(place, name, called)
    return calls
