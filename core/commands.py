"""How a command is called and reads its words. Nothing heavy is imported, so that `--help` is fast.

A command is called in three ways: `twobounds rate-distortion` (installed), `python -m twobounds
rate-distortion`, and `python scripts/rate_distortion.py` (from a checkout). What is said to a
person names the way that was taken.
"""

import argparse
import re
import sys
from pathlib import Path


def through() -> str:
    """The words before a command's name, or nothing where its own script was called."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"python -m {called.parent.name}"
    if called.stem == "twobounds":
        return "python -m twobounds" if called.suffix == ".py" else "twobounds"
    return ""


def command(name: str) -> str:
    """How a person calls a command, by the name of its script: `command("rate_distortion")`."""
    front = through()
    return f"{front} {name.replace('_', '-')}" if front else f"python scripts/{name}.py"


def parser(name: str, about: str) -> argparse.ArgumentParser:
    """A parser that shows `about`, the script's docstring, in whose examples `python scripts/x.py`
    becomes what the person has to type here.
    """
    if front := through():
        about = re.sub(r"(torchrun [^\n]*?)scripts/(\w+)\.py", _launched, about)
        about = re.sub(r"python scripts/(\w+)\.py", lambda match: command(match[1]), about)
        about = re.sub(r"configs/(\w+)\.yaml", r"\1", about)
    return argparse.ArgumentParser(
        prog=command(name) if front else None,
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _launched(match: re.Match[str]) -> str:
    # torchrun starts a module by -m, and ours are started by the one that has all commands
    return f"{match[1]}-m twobounds {match[2].replace('_', '-')}"
