"""What of a data section that comes from a file of unknown origin is used only after a look, or on
the user's own word.

A checkpoint says which data a method was trained on. Its words open no other place than a folder
that exists, fetch nothing, and ask for no more than a machine can give.
"""

import re
from pathlib import Path
from typing import Any

from core.data.readers import TORCHVISION
from core.errors import UserError, shown

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|.*::", re.DOTALL)
PLAIN_KINDS = ("folder", *TORCHVISION)  # these read local files alone
SIZES = {  # the largest that a file may ask for
    "size": 4096,
    "validation": 2**22,
    "sprites.train": 2**22,
    "sprites.validation": 2**22,
    "sprites.test": 2**22,
    "linear_gaussian.train": 2**22,
    "linear_gaussian.validation": 2**22,
    "linear_gaussian.test": 2**22,
}
ALL = ("name", "root", *SIZES)  # the keys that are doubtful in a file


def refuse_doubtful(data: Any, embedded: bool) -> None:
    """`UserError` where a `DataConfig` would open what only a user may name; the error says which
    override allows it.

    `data.doubtful` holds the keys whose values come from a file. `embedded` data read nothing.
    """
    keys = set(data.doubtful)
    for key in sorted(keys & SIZES.keys()):
        value: Any = data
        for name in key.split("."):
            value = getattr(value, name)
        if value > SIZES[key]:
            raise UserError(
                f"data.{key}: the checkpoint asks for {value:,}, and a file may ask for at most"
                f" {SIZES[key]:,}; where you want it, add data.{key}={value}"
            )
    if embedded or not keys & {"name", "root"}:
        return
    if data.name not in PLAIN_KINDS:
        raise UserError(
            f"data.name: the checkpoint's data are {shown(data.name)} in {shown(data.root)}, which"
            f" may fetch files or run programs; where you trust it, add data.name={data.name[:100]}"
            " data.root=FOLDER"
        )
    if "root" in keys and not is_plain_folder(data.root):
        raise UserError(
            f"data.root: the checkpoint names {shown(data.root)}, which is no folder on this"
            " machine; name one by data.root=FOLDER"
        )


def is_plain_folder(root: str) -> bool:
    """Whether a text names a folder that exists, by its path and nothing else."""
    if SCHEME.match(root) or root != root.strip() or not root.isprintable() or set(root) & {*"{}|"}:
        return False
    try:
        return Path(root).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):
        return False
