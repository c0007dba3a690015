"""How a command is called and reads its words. Nothing heavy is imported, so that `--help` is fast.

A command is called in three ways: `twobounds rate-distortion` (installed), `python -m twobounds
rate-distortion`, and `python scripts/rate_distortion.py` (from a checkout). What is said to a
person names the way that was taken.
"""

import argparse
import re
import sys
from pathlib import Path

# A line of an example. torchrun is called the same way everywhere, so its lines stay.
EXAMPLE = re.compile(r"(?<=^    )(?:twobounds ([a-z-]+)|python scripts/(\w+)\.py)", re.M)


def through() -> str:
    """The words before a command's name, or nothing where its own script was called."""
    called = Path(sys.argv[0])
    if called.parts[-2:] == ("scripts", "__main__.py"):
        return "python -m scripts"
    if called.stem == "twobounds":
        return "python -m twobounds" if called.suffix == ".py" else "twobounds"
    return ""


def command(name: str) -> str:
    """How a person calls a command, by the name of its script: `command("rate_distortion")`."""
    front = through()
    if front:
        return f"{front} {name.replace('_', '-')}"
    return f"python scripts/{name.replace('-', '_')}.py"


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """A parser that shows `about`, the script's docstring. In its examples commands are called the
    way that was taken here; `torchrun` takes any of them by `-m twobounds`.
    """
    return argparse.ArgumentParser(
        prog=command(name) if through() else None,
        description=EXAMPLE.sub(lambda match: command(match[1] or match[2]), about or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
