"""What a program says must not end it: a closed pipe, a full disk behind a redirection, a terminal
that knows few characters.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


class LastingStream:
    """A text stream that outlives its reader: what can not be written is dropped, and that is said
    once on stderr. Everything else is the stream's own.
    """

    def __init__(self, stream: Any):
        self._stream, self._lost = stream, False
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # "?" for what the terminal can not show

    def write(self, text: str) -> int:
        with self._kept_alive():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._kept_alive():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _kept_alive(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._lost:
                return
            self._lost = True
            # what is still in the stream's buffer, and all that follows, goes nowhere
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
            if self._stream is not sys.__stderr__:
                said = error.strerror or type(error).__name__
                print(f"output ends here ({said}); the program goes on", file=sys.stderr)


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Inside, stdout and stderr are lasting streams."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (LastingStream(stream) for stream in before)  # type: ignore[assignment]
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # a stream that somebody has closed
            sys.stdout.flush()
            sys.stderr.flush()
        sys.stdout, sys.stderr = before
