"""Mistakes that a person can mend: one clear line and exit code 2, never a traceback."""

import difflib
import functools
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """One line that names the file or the key, what is wrong with it, and the mend."""


def nearest(word: str, candidates: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest candidate, or every valid name if none is close."""
    names = sorted(candidates)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else f" (valid: {', '.join(names)})"


def exit_cleanly(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a script's `main`: a `UserError` becomes one line on stderr and exit code 2."""

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except UserError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None

    return wrapped
