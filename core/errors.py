"""Mistakes that a person can mend: one clear line and exit code 2, never a traceback."""

import difflib
import errno
import functools
import os
import reprlib
import sys
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec

from core.output import lasting_output

# What the system says when a person has to make room or allow something; no file of a run is in
# danger, all are written atomically.
ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
# What gloo and NCCL say, in a RuntimeError, when another process has gone or has been silent for
# trainer.timeout.
GONE = (
    "closed by peer",
    "reset by peer",
    "Broken pipe",
    "Connection refused",
    "imed out waiting",
    "remote process exited",
    "aborted",
)
LINE = 2000  # characters that a line of error shows
SHOWN = 100  # characters that are shown of a value
_REPR = reprlib.Repr()  # cuts a value before it makes a text of it
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = SHOWN


P = ParamSpec("P")


class UserError(Exception):
    """One line that names the file or the key, what is wrong with it, and the mend.

    Its text may quote files of others, so what a terminal would obey is shown as an escape.
    """

    def __str__(self) -> str:
        return legible(super().__str__(), LINE)


def legible(text: str, most: int) -> str:
    """Text that a terminal prints as it stands: control characters as escapes, and what is longer
    than `most` characters cut in the middle.
    """
    if len(text) > most:
        half = (most - 3) // 2
        text = f"{text[:half]} … {text[-half:]}"
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def shown(value: object) -> str:
    """The repr of a value from a file, cut to a length that fits into a line."""
    try:
        return legible(_REPR.repr(value), SHOWN)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return f"a {type(value).__name__} that is too long to show"


class Unmeasurable(UserError):
    """A probe can not be measured here; the message says why. Other probes go on without it."""


def nearest(word: str, candidates: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest candidate, or every valid name if none is close."""
    names = sorted(candidates)
    if not names:
        return ""
    close = difflib.get_close_matches(word[:SHOWN], names, n=1, cutoff=0.5)
    return (
        f" (did you mean '{close[0]}'?)" if close else legible(f" (valid: {', '.join(names)})", 300)
    )


def exit_cleanly(main: Callable[P, None]) -> Callable[P, None]:
    """Wrap a command's `main`: a `UserError`, a full disk or a forbidden file becomes one line on
    stderr and exit code 2.

    A process that ends because another one did says so in one line, with exit code 1, so that the
    other's error is the one that is read.
    """

    @lasting_output()
    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            main(*args, **kwargs)
        except UserError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            raise SystemExit(2) from None
        except OSError as error:
            if error.errno not in ROOM:
                raise
            print(
                f"error: {error.filename or 'a file'}: {error.strerror}; make room or allow it,"
                " then go on with --resume",
                file=sys.stderr,
            )
            raise SystemExit(2) from None
        except RuntimeError as error:
            rank = _rank()
            if rank is None or not any(words in str(error) for words in GONE):
                raise
            reason = " ".join(str(error).split("] ", 1)[-1].split(". ")[0].split())
            print(
                f"rank {rank}: ends because another process did, whose error is the one to read"
                f" ({reason})",
                file=sys.stderr,
            )
            raise SystemExit(1) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None

    return wrapped


def _rank() -> int | str | None:
    """This process's rank, if it is one of several. A process that has not imported torch is
    asked nothing but the environment: torchrun sets RANK, SLURM does not.
    """
    dist: Any = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return int(dist.get_rank())
    return os.environ.get("RANK")
