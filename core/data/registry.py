"""Embedded data sets by name. To add one, write one file, which holds a `Source` with its `Config`,
and add one entry to `EMBEDDED`.

A set in a package of your own is named `package.module.Class`. Nothing is imported from a package
that the user has not named.
"""

import re
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.data.captioned_sprites import CaptionedSprites
from core.data.linear_gaussian import LinearGaussian
from core.data.scenes import Scenes
from core.data.source import Source
from core.data.sprites import Sprites
from core.errors import UserError, nearest
from core.trust import NAME, TRUST, import_module, is_trusted, package_of

# data.name -> class. The keys of a set are data.NAME.*, or data.options.* if DataConfig has no
# section of that name.
EMBEDDED: dict[str, type[Source]] = {
    "sprites": Sprites,
    "captioned_sprites": CaptionedSprites,
    "scenes": Scenes,
    "linear_gaussian": LinearGaussian,
}
_trusted: set[str] = set()


def trust(*names: str) -> None:
    """Let this process import data sets from these packages, because the user has named them."""
    _trusted.update(map(package_of, names))


def is_own(name: str) -> bool:
    """Whether a name has the form `package.module.Class`."""
    return NAME.fullmatch(name) is not None


def locate_source(name: str, trusted: Iterable[str] = ()) -> type[Source]:
    """The data set of that name: a registered one, or `package.module.Class`.

    Only trusted packages are imported: those in `trusted`, those given to `trust`, and those in
    the environment's TWOBOUNDS_TRUST. They may lie in the current folder. Raises `UserError`.
    """
    if name in EMBEDDED:
        return EMBEDDED[name]
    if not is_own(name):
        raise UserError(f"data.name: there is no {ascii(name)}{nearest(name, EMBEDDED)}")
    if not is_trusted(name, {*_trusted, *trusted}):
        raise UserError(
            f"data.name: '{name}' is code of a package that is not trusted; if it is yours, add"
            f" --trust {package_of(name)} or set {TRUST}={package_of(name)}"
        )
    module_name, _, kind = name.rpartition(".")
    module = vars(import_module(name, "data.name"))
    found = module.get(kind)
    if not _is_set(found):
        sets = [key for key, value in module.items() if _is_set(value)]
        raise UserError(
            f"data.name: '{kind}' of {module_name} is not a data set; it must be a subclass of"
            f" core.data.source.Source with a dataclass Config{nearest(kind, sets)}"
        )
    return found  # type: ignore[return-value]


def _is_set(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Source) and hasattr(value, "Config")


def from_options(kind: type[Source], options: dict[str, Any]) -> Any:
    """`data.options` as the set's own checked `Config`. A `UserError` names the key."""
    names = [f.name for f in fields(kind.Config)]
    for key in options:
        if key not in names:
            raise UserError(f"data.options: unknown key '{key}'{nearest(str(key), names)}")
    structured = OmegaConf.structured(kind.Config)
    try:
        return OmegaConf.to_object(OmegaConf.merge(structured, for_omegaconf(options)))
    except OmegaConfBaseException as error:
        said = str(error.msg or error).splitlines()[0]
        raise UserError(f"data.options.{error.full_key or ''}: {said}") from None
    except ValueError as error:
        raise UserError(f"data.options.{error}") from None


def for_omegaconf(values: Any) -> Any:
    """The values, escaped so that OmegaConf finds no interpolation in them. Backslashes before `${`
    are doubled, because OmegaConf halves them.
    """
    if isinstance(values, dict):
        return {key: for_omegaconf(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [for_omegaconf(value) for value in values]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", values) if isinstance(values, str) else values
