"""A probe of the user's own, found by its full name. Its results are checked right after it has
measured. So a mistake is reported there, with its place in the code, and not when the report is
shown.
"""

import importlib
import json
from pathlib import Path
from typing import Any

from core.errors import UserError, nearest
from core.trust import code_of, full_name, import_module
from probes.probe import Found, Probe
from probes.registry import PROBES
from probes.report import store
from probes.report.schema import KEYS


def locate(name: str) -> type[Probe]:
    """The class of a probe by its name in `PROBES`, or by `package.module.Class`. The user's
    package may lie in the current folder. Raises `UserError`.
    """
    place = PROBES.get(name, name)
    module_name, _, kind = place.rpartition(".")
    if name in PROBES:
        module = importlib.import_module(module_name)
    else:
        module = import_module(place, "--probes")
    found = vars(module).get(kind)
    if not (isinstance(found, type) and issubclass(found, Probe)):
        probes = [key for key, value in vars(module).items() if _is_probe(value)]
        said = f"'{kind}' of {module_name} is not a subclass of probes.probe.Probe"
        raise UserError(f"--probes: {said}{nearest(kind, probes)}")
    key = getattr(found, "name", None)
    if not (isinstance(key, str) and key.isidentifier()):
        raise UserError(f"--probes: {place} needs a `name`: one word, such as name = 'spectrum'")
    if key in KEYS or PROBES.get(key, place) != place:
        raise UserError(f"--probes: the name '{key}' of {place} is taken; choose another")
    return found


def is_own(probe: Probe) -> bool:
    """Whether a probe is the user's own, not one of the project's probes."""
    return full_name(probe) not in PROBES.values()


def code(probe: Probe) -> str:
    """The digest of the code of a user's own probe, or "" for a probe of this project. Numbers
    that were measured with other code are not used again.
    """
    return code_of(full_name(probe))


def checked_found(found: Any) -> Found:
    """What `measure` returned. TypeError if it is not a `Found` of values that JSON can hold."""
    if not isinstance(found, Found):
        said = f"got {type(found).__name__}"
        raise TypeError(f"measure must return probes.probe.Found(numbers), {said}")
    json.dumps(found.numbers)
    return found


def checked_pictures(made: Any) -> dict[str, Path]:
    """What `figures` returned. TypeError if it is not a dict of files that exist."""
    files = made.values() if isinstance(made, dict) else [None]
    if not all(isinstance(file, Path) and file.is_file() for file in files):
        raise TypeError("figures must save its pictures into `folder` and return {name: path}")
    return made


def fits(probe: Probe, numbers: Any) -> bool:
    """Whether stored numbers have the form that this version of the probe writes."""
    try:
        store.check(probe, numbers)
    except store.MALFORMED:
        return False
    return True


def _is_probe(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Probe) and value is not Probe
