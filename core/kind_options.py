"""A config section whose `kind` decides which of its other fields count: what a kind does not use
may not be set.

Fields other than `kind` are None until somebody sets them; a kind's own defaults stand in one
table.
"""

from dataclasses import fields
from typing import Any

from core.errors import nearest

REQUIRED = object()  # in the place of a default: the kind can not do without

Kinds = dict[str, dict[str, Any]]  # kind -> the fields that it uses, with their defaults


def settings(config: Any, kinds: Kinds, section: str) -> dict[str, Any]:
    """The fields that `config.kind` uses, defaults filled in. Raises ValueError("section.key: what
    is wrong").
    """
    if config.kind not in kinds:
        raise ValueError(
            f"{section}.kind: there is no '{config.kind}'{nearest(config.kind, kinds)}"
        )
    used = kinds[config.kind]
    given = {
        f.name: getattr(config, f.name)
        for f in fields(config)
        if f.name != "kind" and getattr(config, f.name) is not None
    }
    for key in given:
        if key not in used:
            others = ", ".join(used) or "no other key"
            raise ValueError(
                f"{section}.{key}: {config.kind} does not use it, it uses {others}; set it to null"
            )
    for key, default in used.items():
        if default is REQUIRED and key not in given:
            raise ValueError(f"{section}.{key}: {config.kind} needs it")
    return {**used, **given}
