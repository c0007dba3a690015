"""A run does not end because of its output or of files in its folder: closed pipes, simple
terminals, full disks, odd names and odd lines.
"""

import errno
import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from core.errors import UserError
from core.output import LastingStream
from core.run import checkpoint
from core.run.folder import RunFolder
from core.run.progress import ProgressLine, duration
from tests.front_door import run_script, start_script
from tests.in_process import CONFIGS, SMALL, train

ROOT = Path(__file__).parents[2]
SHORT = [*SMALL, "optim.epochs=1", "model.hidden=16", "model.projection=8"]


def shell(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which $RUN is the command line of a small run."""
    words = [sys.executable, "scripts/pretrain.py", CONFIGS / "simclr_sprites.yaml", *SHORT]
    run = " ".join(f"'{word}'" for word in [*map(str, words), f"folder={folder}"])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.replace("$RUN", run)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=600,
    )


def test_a_run_continues_if_nobody_reads_its_output(tmp_path):
    read, write = os.pipe()
    words = [CONFIGS / "simclr_sprites.yaml", *SHORT, f"folder={tmp_path / 'run'}"]
    with open(tmp_path / "said", "w+") as said:
        process = start_script("pretrain.py", *words, stdout=write, stderr=said.fileno())
        os.close(write)
        assert len(os.read(read, 1)) == 1
        os.close(read)
        process.join()
        said.seek(0)  # the run has moved the place of the file that both have open
        assert process.exitcode == 0, said.read()
        assert said.read() == "output ends here (Broken pipe); the program continues\n"
    assert checkpoint.read(tmp_path / "run/last.ckpt")["step"] == 8


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_terminal_that_knows_few_characters_ends_no_run(tmp_path, variables):
    if "LC_ALL" in variables:  # Python reads it only when it starts
        name = "plain"
        done = shell("$RUN", tmp_path / name, **variables)
    else:
        name = "\u00e9t\u00e9 \u03b2"
        words = [CONFIGS / "simclr_sprites.yaml", *SHORT, f"folder={tmp_path / name}"]
        done = run_script("pretrain.py", *words, environment={**os.environ, **variables})
    assert done.returncode == 0 and "step 8/8 validation" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    (folder,) = tmp_path.iterdir()
    assert folder.name == name
    assert OmegaConf.load(folder / "config.yaml").folder == str(folder)


class Broken(io.StringIO):
    """A stream that fails from the second write on."""

    def __init__(self, number: int):
        super().__init__()
        self.number, self.writes = number, 0

    def write(self, text: str) -> int:
        self.writes += 1
        if self.writes > 1:
            raise OSError(self.number, os.strerror(self.number))
        return super().write(text)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO])
def test_output_that_can_not_be_written_is_dropped_with_one_message(number, capsys):
    broken = Broken(number)
    stream = LastingStream(broken)
    for word in ("one", "two", "three"):
        assert stream.write(word) == len(word)
    stream.flush()
    assert broken.getvalue() == "one" and broken.writes == 3
    said = capsys.readouterr().err
    assert said == f"output ends here ({os.strerror(number)}); the program continues\n"


@pytest.mark.parametrize("name", ["a[/x]", "[b]", "[red]c", "a:smile:b", "d [link=e]"])
def test_names_are_shown_as_they_are(name, tmp_path):
    answer = train("simclr", tmp_path / name, *SHORT)
    assert answer.code == 0, answer.err
    assert answer.out.count(name) >= 2, answer.out  # the device, and the next step
    assert (tmp_path / name / "last.ckpt").is_file()


@pytest.mark.parametrize(
    "name, words",
    [
        ("~nosuchuser/run", ["folder: ~nosuchuser/run", "home folder"]),
        ("a\0b", ["folder", "'\\x00'"]),
        ("a\x1b[31mb", ["folder", "'\\x1b'"]),
        ("a\udcffb", ["folder", "'\\udcff'"]),
        ("n" * 300, ["folder", "File name too long"]),
    ],
)
def test_a_folder_of_an_impossible_name_is_one_line(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        folder = RunFolder(name)
        folder.check(None)
    assert all(word in str(error.value) for word in words), error.value
    assert str(error.value).isprintable() and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, file",
    [
        ("metrics.jsonl", False),
        ("best.ckpt", False),
        ("last-1.ckpt", False),
        ("epoch-3.ckpt", False),
        (".lock", False),
        ("pictures", True),
        ("profile", True),
    ],
)
def test_obstacles_in_the_folder_are_reported_before_the_run(name, file, tmp_path):
    place = tmp_path / "run" / name
    place.parent.mkdir()
    place.write_text("") if file else place.mkdir()
    answer = train("simclr", tmp_path / "run", *SHORT)
    assert answer.is_one_line and name in answer.err, answer
    assert [p.name for p in (tmp_path / "run").iterdir()] == [name]


def test_folders_with_the_names_of_temporary_files_are_kept(tmp_path):
    folder = tmp_path / "run"
    for name in (".last.ckpt.1.tmp", f".last.ckpt.{os.getpid()}.tmp", ".config.yaml.x.tmp"):
        (folder / name).mkdir(parents=True)
    (folder / ".best.ckpt.9.tmp").write_text("half a file")
    assert train("simclr", folder, *SHORT).code == 0
    assert len(list(folder.glob(".*.tmp"))) == 3


@pytest.mark.parametrize("what", ["metrics.jsonl", "config.yaml", "views.png"])
def test_a_full_disk_is_one_line_for_every_file(what, tmp_path, monkeypatch):
    """Writing any file of more than a few bytes fails, like on a full disk."""
    original, limits = os.replace, resource.getrlimit(resource.RLIMIT_FSIZE)

    def renamed(source, target):
        original(source, target)
        before = {"metrics.jsonl": "last.ckpt", "views.png": "metrics.jsonl"}
        if Path(target).name == before.get(what):
            resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))

    monkeypatch.setattr(os, "replace", renamed)
    if what == "config.yaml":
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))
    try:
        answer = train("simclr", tmp_path / "run", *SHORT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    lines = answer.err.strip().splitlines()
    assert answer.code == 2 and len(lines) == 1, answer
    assert f"{what}: could not be written (File too large)" in lines[0]
    assert not list((tmp_path / "run").glob(".*tmp"))


def test_odd_lines_of_metrics_are_dropped_and_the_others_stay(tmp_path):
    folder = RunFolder(tmp_path)
    good = [b'{"step": 1, "loss": 2.5}', b'{"step": 2, "loss": NaN}', b'{"step": 4}']
    odd = [
        b"\xff\xfe\x00",
        b"",
        b"[" * 5000,
        b'{"step": ' + b"9" * 5000 + b"}",
        b'{"step": NaN}',
        b'{"step": "2"}',
        b'{"step": true}',
        b'{"step": -1}',
        b'{"step": [2]}',
        b'{"loss": 1}',
        b'"step"',
        b"7",
        b"[]",
        b"null",
        b'{"step": 2',
        b'{"step": 6}',
    ]
    lines = [line for pair in zip(odd, good * 6, strict=False) for line in pair]
    folder.metrics.write_bytes(b"\n".join([*lines, b"x" * 10**6]))
    folder.rewind_metrics(4)
    assert set(folder.metrics.read_bytes().splitlines()) == set(good)
    assert len(folder.metrics.read_bytes().splitlines()) == len(odd)
    folder.append_metrics({"step": 5, "loss": float("nan"), "rate": 1.5})
    last = folder.metrics.read_text().splitlines()[-1]
    assert json.loads(last) == {"step": 5, "rate": 1.5}


def test_a_line_says_the_time_that_is_left(capsys):
    line = ProgressLine(total=100, done=0, batch_size=8, shown=True)
    line.started -= 50
    line.printed -= 60
    line.advance(50)
    line.show({"loss": 1.25})
    assert "step 50/100 · loss 1.25 · 8 images/s · 50 s left" in capsys.readouterr().out
    assert [duration(s) for s in (0.4, 59, 60, 3599, 3600, 90061)] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "59 min 59 s",
        "1 h 0 min",
        "25 h 1 min",
    ]
