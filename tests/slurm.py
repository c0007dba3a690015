"""Run a SLURM script without SLURM."""

import os
import subprocess
from pathlib import Path

STAND_INS = {
    "srun": 'echo "$@" >> asked; [ -z "$CANCEL" ] || kill -TERM $PPID; exit "$CODE"',
    "scontrol": 'echo "$@" >> requeued',
}


def exit_code(folder: Path, words: list[str], code: int, cancelled: bool, variables) -> int:
    """The exit code of a script in `folder`, whose task ends with `code`, by scancel or not. The
    files `asked` and `requeued` get a line for each call of srun and scontrol.
    """
    for name, does in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/bash\n{does}\n")
        (folder / name).chmod(0o755)
    given = {"CODE": str(code), "CANCEL": "by scancel" if cancelled else ""}
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **variables, **given}
    return subprocess.run(["bash", *words], env=environment, cwd=folder).returncode
