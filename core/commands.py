"""How a command is called, and its argument parser. Imports nothing heavy: `--help` is fast.

There are four ways to call a command: `twobounds rate-distortion` (installed), `python -m
twobounds rate-distortion` and, in a checkout, `python -m scripts rate-distortion` or `python
scripts/rate_distortion.py`. Messages and examples use the way that the user chose.
"""

import argparse
import re
import sys
from pathlib import Path

# A command in an example. Lines with torchrun are the same for all four ways, so they stay.
EXAMPLE = re.compile(r"(?<=^    )(?:twobounds ([a-z-]+)|python scripts/(\w+)\.py)", re.M)


def through() -> str:
    """The words before the command's name; empty if the user called the script itself."""
    called = Path(sys.argv[0])
    if called.parts[-2:] == ("scripts", "__main__.py"):
        return "python -m scripts"
    if called.stem == "twobounds":
        return "python -m twobounds" if called.suffix == ".py" else "twobounds"
    return ""


def command(name: str) -> str:
    """How the user calls the command of a script: `command("rate_distortion")`."""
    if front := through():
        return f"{front} {name.replace('_', '-')}"
    return f"python scripts/{name.replace('-', '_')}.py"


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """A parser whose description is `about`, the script's docstring. Its examples call commands in
    the way that the user chose.
    """
    return argparse.ArgumentParser(
        prog=command(name) if through() else None,
        description=EXAMPLE.sub(lambda match: command(match[1] or match[2]), about or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
