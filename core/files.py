"""Atomic writes: a file is written under another name, synced, then renamed."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from core.errors import UserError


def earlier(path: Path, versions: int) -> Path:
    """The path of an earlier version of `path`, `versions` saves ago: last.ckpt (0), last-1.ckpt
    (1), and so on.
    """
    return path.with_stem(f"{path.stem}-{versions}") if versions else path


def write_atomically(path: Path, write: Callable[[Path], object], keep: int = 1) -> None:
    """Call `write(temporary)`, sync, and rename the result to `path`. A reader never
    sees half a file, and a power cut never leaves one.

    `keep` - 1 earlier versions stay. On a file system with hard links, an existing `path` never
    disappears, even for a moment. `UserError` if `path` is a folder or a device, before anything
    is written: a rename would put a file in the place of the device.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        kind = "folder" if os.path.isdir(path) else "device or pipe"
        raise UserError(f"{path}: is a {kind}, not a file; name a file")
    stem = f".{path.name}.{secrets.token_hex(8)}"
    temporary, linked = path.with_name(f"{stem}.tmp"), path.with_name(f"{stem}.link.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if keep > 1:
            _shift(path, linked, keep)
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # now the names are on the disk, too
        finally:
            os.close(folder)
        if keep > 1:
            earlier(path, keep).unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        # torch.save wraps the system's error
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise UserError(
            f"{path}: could not be written ({cause.strerror or cause}); free some space or name"
            " another folder"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
        linked.unlink(missing_ok=True)


def _shift(path: Path, linked: Path, keep: int) -> None:
    """Keep the present file as the first earlier version; the oldest one is removed later."""
    first = earlier(path, 1)
    # If `path` and `first` are the same file, an earlier call was killed before it renamed the new
    # file.
    if not path.exists() or (first.exists() and first.samefile(path)):
        return
    free = (n for n in range(1, keep) if not earlier(path, n).exists())
    kept = next(free, keep)
    for versions in range(kept - 1, 0, -1):
        os.replace(earlier(path, versions), earlier(path, versions + 1))
    try:
        os.link(path, linked)
        os.replace(linked, first)
    except OSError:  # a file system without hard links
        os.replace(path, first)
