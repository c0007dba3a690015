"""Output that can not be written (a closed pipe, a full disk) does not end the program."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


class LastingStream:
    """A text stream that drops what can not be written. The first loss is reported on stderr."""

    def __init__(self, stream: Any):
        self._stream, self._lost = stream, False
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # "?" for unknown characters

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
            # the stream's buffer and all later text are discarded
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
            if self._stream is not sys.__stderr__:
                said = error.strerror or type(error).__name__
                print(f"output ends here ({said}); the program continues", file=sys.stderr)


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Within this context, stdout and stderr are `LastingStream`s."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (LastingStream(stream) for stream in before)  # type: ignore[assignment]
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # a closed stream
            sys.stdout.flush()
            sys.stderr.flush()
        sys.stdout, sys.stderr = before
