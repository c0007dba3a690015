"""Config sections whose `kind` decides which other fields may be set.

All fields except `kind` are None by default; a table holds the defaults of each kind.
"""

from dataclasses import fields
from typing import Any

from core.errors import nearest

REQUIRED = object()  # instead of a default: the user must set the field

Kinds = dict[str, dict[str, Any]]  # kind -> the fields that it uses, with their defaults


def settings(config: Any, kinds: Kinds, section: str) -> dict[str, Any]:
    """The fields that `config.kind` uses, with defaults. Raises ValueError("section.key: ...")."""
    if config.kind not in kinds:
        raise ValueError(
            f"{section}.kind: there is no '{config.kind}'{nearest(config.kind, kinds)}"
        )
    used = kinds[config.kind]
    given = {f.name: getattr(config, f.name) for f in fields(config) if f.name != "kind"}
    given = {key: value for key, value in given.items() if value is not None}
    for key in given:
        if key not in used:
            others = ", ".join(used) or "no other key"
            raise ValueError(
                f"{section}.{key}: {config.kind} does not use it (it uses {others}); set it to null"
            )
    for key, default in used.items():
        if default is REQUIRED and key not in given:
            raise ValueError(f"{section}.{key}: {config.kind} needs it")
    return {**used, **given}
