"""Rows of a bench that was interrupted, so that the same call continues where it stopped."""

import json
from pathlib import Path
from typing import Any

from core.errors import UserError


def earlier(path: Path, call: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows in the file `path` of an earlier call, or none if there is no file. Raises
    `UserError` if the file is damaged, or if its call is not `call`.
    """
    if not path.exists():
        return []
    try:
        kept = json.loads(path.read_text())
        same, rows = {key: kept[key] for key in call} == call, list(kept["rows"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged; delete it, or name another --out") from None
    if not same:
        raise UserError(f"{path} holds the numbers of other options; name another --out")
    return rows
