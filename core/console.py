"""The console for everything that a person reads."""

from rich.console import Console


def plain_console(least_width: int = 0, quiet: bool = False) -> Console:
    """A console that prints text literally: `runs/a[/x]` is a path and no markup.

    `least_width`: the least number of columns, for tables; 0 leaves wrapping to the terminal.
    """
    plain = Console(markup=False, emoji=False, highlight=False, quiet=quiet, soft_wrap=True)
    if least_width:
        width = max(plain.width, least_width)
        plain = Console(markup=False, emoji=False, highlight=False, quiet=quiet, width=width)
    return plain
