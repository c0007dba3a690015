"""Signatures of files beside a checkpoint, so that files of other users are never used as own
results.

Each user has a secret key in `$TWOBOUNDS_CACHE`, or `$XDG_CACHE_HOME/twobounds`, or
`~/.cache/twobounds`, which only this user may read. Without a key, nothing is signed and no earlier
result is read.
"""

import contextlib
import functools
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

LENGTH = 32  # bytes of a key and of a signature (HMAC with SHA-256)


def cache_folder() -> Path:
    """The folder of this user's key."""
    if own := os.environ.get("TWOBOUNDS_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twobounds"


def sign(parts: Iterable[bytes | memoryview]) -> bytes | None:
    """The signature of these bytes; None if this user has no key."""
    try:
        key = _key(cache_folder() / "key")
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return None
    code = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        code.update(part)
    return code.digest()


def is_own(parts: Iterable[bytes | memoryview], code: bytes) -> bool:
    """Whether this user's key signed these bytes."""
    expected = sign(parts)
    return expected is not None and hmac.compare_digest(expected, code)


@functools.lru_cache(maxsize=4)
def _key(path: Path) -> bytes:
    """The key at `path`, created if missing. OSError if another user could read or replace it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        made = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, secrets.token_bytes(LENGTH))
            os.link(made, path)  # so that other processes never see an incomplete key
        finally:
            os.close(descriptor)
            made.unlink()
    found = path.stat()
    if found.st_mode & 0o077 or found.st_uid != os.getuid():
        raise PermissionError(f"{path}: others may read this key; chmod 600 it, or remove it")
    key = path.read_bytes()
    if len(key) != LENGTH:
        raise OSError(f"{path}: is not a key of {LENGTH} bytes; remove it")
    return key
