"""Embedded data sets by name. A new one is one file: a `Source` with its `Config`.

A set in a package of one's own is named `package.module.Class`; nothing is imported from a package
that the user has not named.
"""

import importlib
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import fields
from types import ModuleType
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.data.linear_gaussian import LinearGaussian
from core.data.source import Source
from core.data.sprites import Sprites
from core.errors import UserError, nearest
from core.method import TRUST

# data.name -> the set. Its keys are data.NAME.*, or data.options where DataConfig has no such
# section.
EMBEDDED: dict[str, type[Source]] = {"sprites": Sprites, "linear_gaussian": LinearGaussian}
OWN = re.compile(r"(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*", re.ASCII)
_trusted: set[str] = set()


def trust(*names: str) -> None:
    """Let this process open data sets of the packages of these names, which the user has written: a
    package, or data.name as it stands in a config or on a command line of the user's own.
    """
    _trusted.update(name.partition(".")[0] for name in names)


def is_own(name: str) -> bool:
    """Whether a name has the form `package.module.Class`."""
    return OWN.fullmatch(name) is not None


def locate_source(name: str, trusted: Iterable[str] = ()) -> type[Source]:
    """The data set of that name: a registered one, or `package.module.Class`.

    Nothing is imported but modules of packages in `trusted`, in what `trust` was told, and in the
    environment's TWOBOUNDS_TRUST; they may lie in the current folder. Raises `UserError`.
    """
    if name in EMBEDDED:
        return EMBEDDED[name]
    module_name, _, kind = name.rpartition(".")
    packages = {*_trusted, *trusted, *os.environ.get(TRUST, "").split(",")} - {""}
    if not is_own(name):
        raise UserError(f"data.name: there is no {ascii(name)}{nearest(name, EMBEDDED)}")
    if not any(f"{module_name}.".startswith(f"{package}.") for package in packages):
        raise UserError(
            f"data.name: '{name}' is code of a package that is not trusted; if it is yours, add"
            f" --trust {name.partition('.')[0]} or set {TRUST}={name.partition('.')[0]}"
        )
    found = vars(_import(module_name, name)).get(kind)
    if not (isinstance(found, type) and issubclass(found, Source) and hasattr(found, "Config")):
        raise UserError(
            f"data.name: '{kind}' of {module_name} is no data set; it has to be a subclass of"
            " core.data.source.Source with a dataclass Config"
        )
    return found


def _import(module_name: str, name: str) -> ModuleType:
    """A module of a trusted package, which may lie in the current folder."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a file there replaces no installed module
    try:
        return importlib.import_module(module_name)
    except Exception as error:
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            file = module_name.replace(".", "/")
            raise UserError(f"data.name: there is no file {file}.py for '{name}'") from None
        raise UserError(
            f"data.name: {module_name} can not be imported ({type(error).__name__}: {error})"
        ) from error


def from_options(kind: type[Source], options: dict[str, Any]) -> Any:
    """`data.options` as the set's own checked `Config`; a `UserError` names the key."""
    names = [f.name for f in fields(kind.Config)]
    for key in options:
        if key not in names:
            raise UserError(f"data.options: unknown key '{key}'{nearest(str(key), names)}")
    structured = OmegaConf.structured(kind.Config)
    try:
        return OmegaConf.to_object(OmegaConf.merge(structured, _literal(options)))
    except OmegaConfBaseException as error:
        said = str(error.msg or error).splitlines()[0]
        raise UserError(f"data.options.{error.full_key or ''}: {said}") from None
    except ValueError as error:
        raise UserError(f"data.options.{error}") from None


def _literal(values: Any) -> Any:
    """Values in whose texts OmegaConf finds no interpolation."""
    if isinstance(values, dict):
        return {key: _literal(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_literal(value) for value in values]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", values) if isinstance(values, str) else values
