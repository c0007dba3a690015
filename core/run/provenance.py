"""data.json of a run folder: the data and the package versions of the run."""

import importlib.metadata
import json
import platform
import re
from pathlib import Path
from typing import Any

from core.data.identity import Identity
from core.errors import UserError

PACKAGES = ("torch", "torchvision", "timm", "twobounds")
LARGEST = 2**24  # bytes; no run writes a longer file


def provenance(identity: Identity, init: str = "") -> dict[str, Any]:
    """The content of data.json: the identity of the training data, and the package versions. If the
    run started from the weights of a file, `init` is the sha256 of that file.
    """
    made = {"data": identity.as_dict(), "versions": versions()}
    return made | ({"init": init} if init else {})


def earlier_init(path: Path) -> str:
    """The sha256 of the first weights' file in a data.json, or ""."""
    try:
        if path.stat().st_size > LARGEST:
            return ""
        found = json.loads(path.read_text()).get("init", "")
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""
    return found if isinstance(found, str) and re.fullmatch("[0-9a-f]{64}", found) else ""


def versions() -> dict[str, str]:
    """Package -> version. A package without installed metadata is "not installed", even if it can
    be imported from a folder.
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def changes(path: Path, identity: Identity, accept: bool) -> list[str]:
    """The lines to print when a run is resumed: how its data and versions differ from those in
    data.json (`path`). `UserError` if the data have changed and `accept` is false.
    """
    if not path.is_file():
        return [f"{path}: missing, so the run's data can not be compared with those here"]
    remedy = "name the data that it was trained on, or continue with data.changed=accept"
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("too long")
        then = json.loads(path.read_text())
        before, there = then["data"], dict(then["versions"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        if accept:
            return [f"{path}: was damaged, and is written again"]
        raise UserError(
            f"{path}: damaged, so the run's data can not be compared with those here; restore it,"
            " or continue with data.changed=accept"
        ) from None
    lines = []
    difference = identity.difference(before)
    if difference and not accept:
        raise UserError(f"data: {path.parent} was trained on other data: {difference}; {remedy}")
    if difference:
        lines.append(f"data.changed=accept: continues with other data: {difference}")
    here = versions()
    others = [
        f"{package} {str(there.get(package, 'unknown'))[:40]!a} then, {version} now"
        for package, version in here.items()
        if there.get(package) != version
    ]
    if others:
        lines.append(f"other versions: {'; '.join(others)}")
    return lines
