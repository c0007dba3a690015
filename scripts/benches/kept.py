"""For benches that are programs of their own: their arguments, and the rows of an interrupted call,
so that the same call continues where it stopped.
"""

import argparse
import functools
import json
from pathlib import Path
from typing import Any

from core.errors import UserError


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """A parser for `python -m scripts.benches.NAME`, whose description is `about`."""
    return argparse.ArgumentParser(
        f"python -m scripts.benches.{name}",
        description=about,
        formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, width=100),
    )


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
