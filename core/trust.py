"""Classes found by their full name, `package.module.Class`.

A name may come from a checkpoint of unknown origin, and importing a module runs its code. So a
module is imported only from the project's own packages and from packages that the user trusts.
"""

import importlib
import os
import re
import sys
from collections.abc import Iterable
from types import ModuleType

from core.errors import UserError

ROOMS = ("contrastive", "vae")  # the project's own packages that hold methods
TRUST = "TWOBOUNDS_TRUST"  # environment variable: further packages, separated by commas
NAME = re.compile(r"(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*", re.ASCII)


def package_of(name: str) -> str:
    """The package in a full name. A user who writes the name in a config trusts this package."""
    return name.partition(".")[0]


def is_trusted(name: str, packages: Iterable[str]) -> bool:
    """Whether the class lies in one of these packages or in one that TWOBOUNDS_TRUST lists."""
    names = {*packages, *os.environ.get(TRUST, "").split(",")} - {""}
    module = name.rpartition(".")[0]
    return any(f"{module}.".startswith(f"{package}.") for package in names)


def option_for(*names: str) -> str:
    """What a command on a checkpoint with these names needs: " --trust PACKAGE", or ""."""
    own = {package_of(n) for n in names if NAME.fullmatch(n) and not is_trusted(n, ROOMS)}
    return "".join(f" --trust {package}" for package in sorted(own))


def import_module(name: str, key: str) -> ModuleType:
    """The module of a trusted class. A user's package may lie in the current folder.

    `UserError` names the config's `key` if the module is missing or fails.
    """
    module, own = name.rpartition(".")[0], package_of(name) not in ROOMS
    if own and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # at the end, so that it hides no installed module
    try:
        return importlib.import_module(module)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            file = module.replace(".", "/")
            raise UserError(f"{key}: there is no file {file}.py for '{name}'") from None
        if not own:
            raise
        raise UserError(
            f"{key}: {module} can not be imported ({type(error).__name__}: {error})"
        ) from error
