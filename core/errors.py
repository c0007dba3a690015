"""Mistakes that a user can correct: one clear line and exit code 2, no traceback."""

import difflib
import errno
import functools
import os
import reprlib
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, ParamSpec, TypeVar

from core.output import lasting_output

# System errors that a user can correct. No file of a run is in danger: all writes are atomic.
ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
# Words in the RuntimeErrors of gloo and NCCL after another process has died or does not answer.
GONE = (
    "closed by peer",
    "reset by peer",
    "Broken pipe",
    "Connection refused",
    "imed out waiting",
    "remote process exited",
    "aborted",
)
LINE = 2000  # characters of an error message
SHOWN = 100  # characters of a value in a message
_REPR = reprlib.Repr()  # cuts long values before it formats them
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = SHOWN

P = ParamSpec("P")
R = TypeVar("R")


class UserError(Exception):
    """One line: the file or key, what is wrong, and what to do.

    The text may quote foreign files, so control characters are escaped.
    """

    def __str__(self) -> str:
        return legible(super().__str__(), LINE)


def legible(text: str, most: int) -> str:
    """Text with control characters escaped, and cut in the middle to `most` characters."""
    if len(text) > most:
        half = (most - 3) // 2
        text = f"{text[:half]} … {text[-half:]}"
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def shown(value: object) -> str:
    """The repr of a value from a file, cut to fit into a line."""
    try:
        return legible(_REPR.repr(value), SHOWN)
    except ValueError:  # Python formats no integer of more than 4,300 digits
        return f"a {type(value).__name__} that is too long to show"


class Unmeasurable(UserError):
    """A probe can not measure this checkpoint. The message says why; other probes continue."""


def nearest(word: str, candidates: Iterable[str]) -> str:
    """` (did you mean 'x'?)` if a candidate is close, else all valid names."""
    names = sorted(candidates)
    if not names:
        return ""
    close = difflib.get_close_matches(word[:SHOWN], names, n=1, cutoff=0.5)
    if close:
        return f" (did you mean '{close[0]}'?)"
    return legible(f" (valid: {', '.join(names)})", 300)


def exit_cleanly(main: Callable[P, R]) -> Callable[P, R]:
    """Wrap a command's `main`: a `UserError`, a full disk or a forbidden file ends it with one line
    on stderr and exit code 2.

    A process that ends because another process failed prints one line and exits with code 1. So the
    error of the other process stays visible.
    """

    @lasting_output()
    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return main(*args, **kwargs)
        except UserError as error:
            _end(2, f"error: {' '.join(str(error).split())}")
        except OSError as error:
            if error.errno not in ROOM:
                raise
            _end(
                2,
                f"error: {error.filename or 'a file'}: {error.strerror}; free some space or change"
                " the permission, then repeat the command (training continues with --resume)",
            )
        except RuntimeError as error:
            rank = _rank()
            if rank is None or not any(words in str(error) for words in GONE):
                raise
            reason = " ".join(str(error).split("] ", 1)[-1].split(". ")[0].split())
            _end(1, f"rank {rank}: ends because another process failed; see its error ({reason})")
        except KeyboardInterrupt:
            raise SystemExit(130) from None

    return wrapped


def _end(code: int, line: str) -> NoReturn:
    print(line, file=sys.stderr)
    raise SystemExit(code) from None


def _rank() -> int | str | None:
    """This process's rank, if it is one of several. torchrun sets RANK, but SLURM does not."""
    dist: Any = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return int(dist.get_rank())
    return os.environ.get("RANK")
