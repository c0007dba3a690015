"""Files that are whole at every moment: written under another name, synced, then renamed."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from core.errors import UserError


def earlier(path: Path, versions: int) -> Path:
    """Where the checkpoint that was `path` so many saves ago is kept: last.ckpt, last-1.ckpt,
    ...
    """
    return path.with_stem(f"{path.stem}-{versions}") if versions else path


def write_atomically(path: Path, write: Callable[[Path], object], keep: int = 1) -> None:
    """Call `write(temporary)`, sync, and rename the result to `path`, so that no reader ever sees
    half a file, nor after a power cut.

    Of what was there before, `keep` - 1 versions stay, at every moment. Once there is a file called
    `path`, there always is one (on a file system that knows hard links).
    """
    temporary, linked = (
        path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp") for _ in range(2)
    )
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if keep > 1:
            _shift(path, linked, keep)
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the names, too, are on the disk now
        finally:
            os.close(folder)
        if keep > 1:
            earlier(path, keep).unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        cause = (
            error if isinstance(error, OSError) else error.__context__
        )  # torch.save wraps what the system said
        if not isinstance(cause, OSError):
            raise
        raise UserError(
            f"{path}: could not be written ({cause.strerror or cause}); free some space or change"
            " `folder`"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
        linked.unlink(missing_ok=True)


def _shift(path: Path, linked: Path, keep: int) -> None:
    """Make room: what is `path` is its own earlier version, too. The oldest goes only when the new
    one has its name, after this.
    """
    first = earlier(path, 1)
    if not path.exists() or (
        first.exists() and first.samefile(path)
    ):  # the same: a kill came between this and the renaming
        return
    kept = next(
        versions
        for versions in range(1, keep + 1)
        if versions == keep or not earlier(path, versions).exists()
    )
    for versions in range(kept - 1, 0, -1):
        os.replace(earlier(path, versions), earlier(path, versions + 1))
    try:
        os.link(path, linked)
        os.replace(linked, first)
    except OSError:  # a file system without hard links
        os.replace(path, first)
