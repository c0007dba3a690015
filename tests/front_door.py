"""Run scripts as a user does, but without the seconds that importing torch takes each time.

One server process (multiprocessing's forkserver) imports everything once. Each script is a fork of
it: a separate process with its own arguments, folder, environment, output and exit code.
"""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp

ROOT = Path(__file__).parents[1]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(  # what the scripts import after parsing their arguments
    [
        "contrastive.moco",
        "contrastive.simclr",
        "core.run.dry_run",
        "core.run.loop",
        "probes.samples.estimate",
        "probes.session",
        "vae.vlae",
        "matplotlib.pyplot",
        "scipy.stats",
        "timm",
        "probes.report.figures",  # and single probes
        "probes.labels.knn",
        "probes.latents.curve",
        "probes.report.compression_figures",
        "probes.report.page.class_charts",
        "pytest",
        "tests.still_heap",
    ]
)


@dataclass
class Done:
    """The result of a script: its exit code (negative: killed by that signal) and its output."""

    returncode: int
    stdout: str
    stderr: str


def run_script(
    script: str | Path,
    *words: object,
    cwd: str | Path = ROOT,
    environment: Mapping[str, str] | None = None,
) -> Done:
    """Run `python scripts/SCRIPT WORDS` to its end; the output is text."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = start_script(
            script,
            *words,
            cwd=cwd,
            environment=environment,
            stdout=out.fileno(),
            stderr=err.fileno(),
        )
        process.join()
        said = [file.seek(0) or file.read().decode(errors="replace") for file in (out, err)]
    assert process.exitcode is not None
    return Done(process.exitcode, *said)


def run_code(code: str, *words: object, cwd: str | Path = ROOT) -> Done:
    """Run `python -c CODE WORDS` to its end."""
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder) / "code.py").write_text(code)
        return run_script(path, *words, cwd=cwd)


def run_in_processes(function: Callable[..., None], size: int, *given: Any) -> None:
    """Run `function(rank, *given)` in `size` processes, in which all imports are done already."""
    mp.start_processes(function, given, size, start_method="forkserver")  # type: ignore[no-untyped-call]


def run_at_a_port(function: Callable[..., None], size: int, folder: Path) -> None:
    """Run `function(rank, size, port, folder)` in `size` processes that meet at a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_in_processes(function, size, size, port, folder)


def start_script(
    script: str | Path,
    *words: object,
    cwd: str | Path = ROOT,
    environment: Mapping[str, str] | None = None,
    stdout: int = 1,
    stderr: int = 2,
) -> BaseProcess:
    """Start a script without waiting for it; `stdout` and `stderr` are file descriptors."""
    process = FORKS.Process(
        target=_run,
        args=(
            str(ROOT / "scripts" / script),
            list(map(str, words)),
            str(cwd),
            dict(os.environ if environment is None else environment),
            _Descriptor(stdout),
            _Descriptor(stderr),
        ),
    )
    process.start()
    return process


class _Descriptor:
    """An open file descriptor of this process, which the new process receives."""

    def __init__(self, number: int):
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self.number),)


def _received(duplicate: Any) -> int:
    return int(duplicate.detach())


def _run(
    script: str, words: list[str], cwd: str, environment: dict[str, str], out: int, err: int
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, given in ((1, out), (2, err)):
        os.dup2(given, number)
    # Python checked for terminals and encodings when the server started
    encoding = environment.get("PYTHONIOENCODING")
    sys.stdout = open(1, "w", closefd=False, encoding=encoding)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", closefd=False, encoding=encoding, errors="backslashreplace"
    )
    sys.argv = [script, *words]
    sys.path.insert(0, str(Path(script).parent))
    subprocess.call = _call  # type: ignore[assignment]
    # the default of a script that a user starts; else its first worker would start a server
    multiprocessing.set_start_method("fork", force=True)
    runpy.run_path(script, run_name="__main__")


def _call(words: list[str], **options: Any) -> int:
    """Replaces `subprocess.call` if a script starts a script: a fork, which has one thread."""
    assert words[0] == sys.executable and not options, words
    sys.stdout.flush()
    process = multiprocessing.get_context("fork").Process(
        target=_run, args=(words[1], words[2:], os.getcwd(), dict(os.environ), 1, 2)
    )
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode
