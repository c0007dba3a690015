"""The console for everything that a person reads."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from tqdm import tqdm

PLAIN_EVERY = 15.0  # seconds between lines if the output is not a terminal


def plain_console(least_width: int = 0, quiet: bool = False) -> Console:
    """A console that prints text literally: `runs/a[/x]` is a path, not markup.

    `least_width`: the least number of columns, for tables; 0 leaves wrapping to the terminal.
    """
    plain = Console(markup=False, emoji=False, highlight=False, quiet=quiet, soft_wrap=True)
    if least_width:
        width = max(plain.width, least_width)
        plain = Console(markup=False, emoji=False, highlight=False, quiet=quiet, width=width)
    return plain


def steps_left(total: int, label: str, unit: str = "steps") -> Iterator[int]:
    """Yield 0 to total - 1, and show the time left in a line on standard error. Without a terminal,
    a plain line is printed every 15 s.
    """
    every = 0.2 if sys.stderr.isatty() else PLAIN_EVERY
    look = {"desc": label, "unit": f" {unit}", "leave": False, "delay": every}
    yield from tqdm(range(total), mininterval=every, **look)


@contextmanager
def progress(total: int, label: str, unit: str) -> Iterator[Callable[[int], object]]:
    """Show a line like that of `steps_left`. Yields a function that adds a number to the count of
    finished units.
    """
    every = 0.2 if sys.stderr.isatty() else PLAIN_EVERY
    look = {"desc": label, "unit": f" {unit}", "leave": False, "delay": every}
    with tqdm(total=total, mininterval=every, **look) as line:
        yield line.update
