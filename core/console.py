"""The one console that output for a person goes through: text is printed as it stands."""

from rich.console import Console


def plain_console(least_width: int = 0, quiet: bool = False) -> Console:
    """A console that sees no markup, no emoji codes and no highlights in a text, for a text may
    hold a path such as `runs/a[/x]`.

    `least_width`: columns of a table, where the terminal may be narrower; 0 = lines wrap as the
    terminal wraps them.
    """
    plain = Console(markup=False, emoji=False, highlight=False, quiet=quiet, soft_wrap=True)
    if least_width:
        width = max(plain.width, least_width)
        plain = Console(markup=False, emoji=False, highlight=False, quiet=quiet, width=width)
    return plain
