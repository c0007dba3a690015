"""Find where a silent process is stuck: a signal makes it write its Python stack, even while it
waits for a lock that nobody will free.
"""

import contextlib
import faulthandler
import os
import re
import signal
import time
import weakref
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

ASK = getattr(signal, "SIGRTMIN", 0) + 7  # a signal that has no other use
PATIENCE = 1.0  # seconds to wait for an answer; a stopped process gives none
FRAME = re.compile(r'File "(.*)", line (\d+) in (.*)')


@contextlib.contextmanager
def answering(process: BaseProcess) -> Iterator[int]:
    """A process that is forked within this context writes its stack to the yielded file descriptor
    when it receives the signal `ASK`. The file lives as long as `process`. Linux only.
    """
    answer = os.memfd_create("stack")
    weakref.finalize(process, os.close, answer)
    faulthandler.register(ASK, file=answer, all_threads=False)
    try:
        yield answer
    finally:
        faulthandler.unregister(ASK)


def place(process: BaseProcess, answer: int) -> str:
    """The two innermost frames of the process in words, or "it does not answer"."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid or 0, ASK)
    end = time.monotonic() + PATIENCE
    frames: list[tuple[str, str, str]] = []
    while len(frames) < 2 and time.monotonic() < end:
        time.sleep(0.02)
        text = os.pread(answer, 2**16, 0).decode(errors="replace")
        frames = FRAME.findall(text)
    named = [f"{function} ({_short(file)}:{line})" for file, line, function in frames[:2]]
    return "in " + ", called by ".join(named) if named else "it does not answer"


def _short(file: str) -> str:
    return "/".join(Path(file).parts[-2:])
