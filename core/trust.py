"""Classes found by their full name, `package.module.Class`.

A name may come from a checkpoint of unknown origin, and importing a module runs its code. So a
module is imported only from the project's own packages and from packages that the user trusts.
"""

import ast
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from core.errors import UserError

ROOMS = ("contrastive", "vae")  # the project's own packages that hold methods
PROJECT = (*ROOMS, "core", "probes", "scripts", "configs", "twobounds")
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
    """The option " --trust PACKAGE" that a command needs for a checkpoint with these class names,
    or "".
    """
    own = {package_of(n) for n in names if NAME.fullmatch(n) and not is_trusted(n, ROOMS)}
    return "".join(f" --trust {package}" for package in sorted(own))


def full_name(thing: object) -> str:
    """The name of the class of an object, `package.module.Class`."""
    return f"{type(thing).__module__}.{type(thing).__name__}"


def code_of(name: str) -> str:
    """SHA-256 in hex of the code of a user's own class or module, by its full name. The module must
    have been imported. The digest is "" for the project's own packages and for Python's standard
    library: their versions say what their code is.

    It covers every .py file of the package. For a module outside of a package, it covers the file
    of the module and those modules beside it that it imports. So results that were kept are not
    used after the code has changed.
    """
    package = package_of(name)
    module = sys.modules.get(package)
    if package in PROJECT or package in sys.stdlib_module_names or module is None:
        return ""
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    files = {file: file.relative_to(top) for top in folders for file in top.rglob("*.py")}
    if not folders and (own := getattr(module, "__file__", None)):
        files = {file: Path(file.name) for file in _with_imports(Path(own))}
    total = hashlib.sha256()
    for file, place in sorted(files.items()):
        total.update(f"{place}\n".encode(errors="surrogateescape"))
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def _with_imports(first: Path) -> set[Path]:
    """A module's file, and those of the modules and packages beside it that it imports."""
    found, left = {first}, [first]
    while left:
        try:
            tree = ast.parse(left.pop().read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for word in map(package_of, names):
                if word in PROJECT:
                    continue
                beside = {first.with_name(f"{word}.py"), *(first.parent / word).rglob("*.py")}
                new = {file for file in beside if file.is_file()} - found
                found |= new
                left += new
    return found


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
