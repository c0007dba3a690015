"""Mistakes that a person can mend: one clear line and exit code 2, never a traceback."""

import difflib
import errno
import functools
import os
import sys
from collections.abc import Callable, Iterable

import torch.distributed as dist

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


class UserError(Exception):
    """One line that names the file or the key, what is wrong with it, and the mend."""


class Unmeasurable(UserError):
    """A probe can not be measured here; the message says why. Other probes go on without it."""


def nearest(word: str, candidates: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest candidate, or every valid name if none is close."""
    names = sorted(candidates)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else f" (valid: {', '.join(names)})"


def exit_cleanly(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a script's `main`: a `UserError`, a full disk or a forbidden file becomes one line on
    stderr and exit code 2.

    A process that ends because another one did says so in one line, with exit code 1, so that the
    other's error is the one that is read.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
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
            rank = (
                dist.get_rank() if dist.is_initialized() else os.environ.get("RANK")
            )  # which torchrun sets, and SLURM does not
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
