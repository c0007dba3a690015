"""data.json of a run folder: which data the run is trained on, and with which versions."""

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

from core.data.identity import Identity
from core.errors import UserError

PACKAGES = ("torch", "torchvision", "timm", "twobounds")
LARGEST = 2**24  # bytes; a longer file is none that a run wrote


def provenance(identity: Identity) -> dict[str, Any]:
    """The identity of a run's train split and the versions at work, as data.json holds them."""
    return {"data": identity.as_dict(), "versions": versions()}


def versions() -> dict[str, str]:
    """Package -> its version, "not installed" for one that runs from a folder."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def changes(path: Path, identity: Identity, accept: bool) -> list[str]:
    """What to say where a run goes on: one line about data that are not those which data.json
    (`path`) describes, one about versions.

    Raises `UserError` where the data have changed and that is not accepted.
    """
    if not path.is_file():
        return [f"{path}: missing, so it is not known whether the data are those of the run"]
    mend = "name the data that it was trained on, or go on with data.changed=accept"
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("too long")
        then = json.loads(path.read_text())
        before, there = then["data"], dict(then["versions"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        if accept:
            return [f"{path}: damaged, and written again"]
        raise UserError(
            f"{path}: damaged, so it is not known whether the data are those of the run; restore"
            " it, or go on with data.changed=accept"
        ) from None
    lines = []
    difference = identity.difference(before)
    if difference and not accept:
        raise UserError(f"data: {path.parent} was trained on other data: {difference}; {mend}")
    if difference:
        lines.append(f"data.changed=accept: goes on with other data: {difference}")
    here = versions()
    others = [
        f"{package} {str(there.get(package, 'unknown'))[:40]!a} then, {version} now"
        for package, version in here.items()
        if there.get(package) != version
    ]
    if others:
        lines.append(f"other versions: {'; '.join(others)}")
    return lines
