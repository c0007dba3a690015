"""Checks of data sections that come from a file of unknown origin.

A checkpoint names the data of its training. Such a name may open only an existing folder, may not
download anything, and may ask only for limited sizes. For everything else the user must give an
override.
"""

import re
from pathlib import Path
from typing import Any

from core.data.readers import TORCHVISION
from core.errors import UserError, shown

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|.*::", re.DOTALL)
PLAIN_KINDS = ("folder", *TORCHVISION)  # these read only local files
SPLIT_SIZES = ("train", "validation", "test")
SIZES = {"size": 4096, "validation": 2**22} | {  # the largest values that a file may ask for
    f"{name}.{split}": 2**22
    for name in ("sprites", "captioned_sprites", "scenes", "linear_gaussian")
    for split in SPLIT_SIZES
}
ALL = ("name", "root", "list", *SIZES)  # the keys that are not trusted when they come from a file


def refuse_doubtful(data: Any, embedded: bool) -> None:
    """Raise `UserError` if a `DataConfig` would open data that only a user may name. The message
    says how to allow it.

    `data.doubtful` holds the keys whose values come from a file. If `embedded`, no file is opened.
    """
    keys = set(data.doubtful)
    for key in sorted(keys & SIZES.keys()):
        value: Any = data
        for name in key.split("."):
            value = getattr(value, name)
        if value != "auto" and value > SIZES[key]:
            raise UserError(
                f"data.{key}: the checkpoint asks for {value:,}, but a file may ask for at most"
                f" {SIZES[key]:,}; to allow it, add data.{key}={value}"
            )
    if embedded:
        return
    if keys & {"name", "root"} and data.name not in PLAIN_KINDS:
        raise UserError(
            f"data.name: the checkpoint's data are {shown(data.name)} in {shown(data.root)}, which"
            f" may fetch files or run programs; if you trust it, add data.name={data.name[:100]}"
            " data.root=FOLDER"
        )
    if "root" in keys and not is_plain_folder(data.root):
        raise UserError(
            f"data.root: the checkpoint names {shown(data.root)}, which is not a folder on this"
            " machine; name a folder by data.root=FOLDER"
        )
    if "list" in keys and data.list and not _is_inside(data.list, data.root):
        raise UserError(
            f"data.list: the checkpoint names {shown(data.list)}, which is not a file in data.root;"
            " name it yourself by data.list=FILE"
        )


def _is_inside(name: str, root: str) -> bool:
    """Whether a text is the relative path of a file in a folder."""
    try:
        top = Path(root).expanduser().resolve()
        path = (top / name).resolve()
        return not Path(name).is_absolute() and path.is_relative_to(top) and path.is_file()
    except (OSError, RuntimeError, ValueError):
        return False


def is_plain_folder(root: str) -> bool:
    """Whether a text is the path of an existing folder, and no address or command."""
    if SCHEME.match(root) or root != root.strip() or not root.isprintable() or set(root) & {*"{}|"}:
        return False
    try:
        return Path(root).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):
        return False


def require_named(path: Path, values: dict[str, Any], overrides: list[str]) -> None:
    """`UserError` if neither a checkpoint nor an override says which data to read. The default data
    would give numbers on data that the user did not ask for.
    """
    data = values.get("data")
    if isinstance(data, dict) and "name" in data:
        return
    if not any(word.partition("=")[0].strip() in ("data", "data.name") for word in overrides):
        raise UserError(
            f"{path}: its config has no data.name, so it is not known which data it belongs to;"
            " name them, such as data.name=cifar10 data.root=DATA"
        )
