"""Which files beside a checkpoint this user wrote: each carries a code that only the user's key
can make, so that a file from elsewhere is never taken for a result of our own.

The key lies in the user's cache folder, `$TWOBOUNDS_CACHE` or `$XDG_CACHE_HOME/twobounds` or
`~/.cache/twobounds`, and nobody else may read it. Where no key can be kept, nothing is signed, and
nothing that was computed before is read again.
"""

import contextlib
import functools
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

LENGTH = 32  # bytes of a key, and of a code (HMAC with SHA-256)


def cache_folder() -> Path:
    """Where this user's key is kept."""
    if own := os.environ.get("TWOBOUNDS_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twobounds"


def sign(parts: Iterable[bytes | memoryview]) -> bytes | None:
    """The code of these bytes, one part after another; None where this user has no key."""
    try:
        key = _key(cache_folder() / "key")
    except (OSError, RuntimeError):  # a RuntimeError: there is no home folder
        return None
    code = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        code.update(part)
    return code.digest()


def is_own(parts: Iterable[bytes | memoryview], code: bytes) -> bool:
    """Whether this user's key made the code of these bytes."""
    expected = sign(parts)
    return expected is not None and hmac.compare_digest(expected, code)


@functools.lru_cache(maxsize=4)
def _key(path: Path) -> bytes:
    """The key at `path`, made where there is none. Raises OSError where that can not be, or where
    another user could read or replace it.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        made = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, secrets.token_bytes(LENGTH))
            os.link(made, path)  # whole from the first moment that another process can see it
        finally:
            os.close(descriptor)
            made.unlink()
    found = path.stat()
    if found.st_mode & 0o077 or found.st_uid != os.getuid():
        raise PermissionError(f"{path}: others may read this key; chmod 600 it, or remove it")
    key = path.read_bytes()
    if len(key) != LENGTH:
        raise OSError(f"{path}: is no key of {LENGTH} bytes; remove it")
    return key
