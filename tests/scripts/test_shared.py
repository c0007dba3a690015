"""Helpers of the commands: options with their defaults, and steps of a study in one process."""

import argparse
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs import CONFIGS
from scripts import shared


@pytest.fixture
def fake(monkeypatch):
    """Add a command `fake` whose main is the given function."""

    def make(main):
        monkeypatch.setitem(sys.modules, "scripts.fake", SimpleNamespace(main=main))

    return make


def test_a_step_runs_in_this_process_and_shows_its_command_line(fake, capsys):
    seen = []
    fake(lambda words: seen.append((os.getpid(), words)))
    shared.step("fake.py", Path("runs/a b"), "--resume", 3)
    assert seen == [(os.getpid(), ["runs/a b", "--resume", "3"])]
    assert "fake" in (said := capsys.readouterr().out) and "'runs/a b' --resume 3" in said


def test_a_step_that_fails_ends_the_command_with_its_code(fake):
    def main(words):
        signal.signal(signal.SIGTERM, lambda *_: None)
        sys.exit(75)

    fake(main)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        shared.step("fake.py")
    assert ended.value.code == 75 and signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    "devices, own", [([], False), (["trainer.devices=1"], False), (["trainer.devices=2"], True)]
)
def test_a_run_with_several_processes_starts_in_a_new_process(devices, own, monkeypatch, tmp_path):
    """Lightning starts the other processes by the command line of the first, so it must be
    pretrain's.
    """
    inside, outside = [], []
    monkeypatch.setitem(sys.modules, "scripts.pretrain", SimpleNamespace(main=inside.append))
    monkeypatch.setattr(shared.subprocess, "call", lambda words: outside.append(words) or 0)
    words = [f"folder={tmp_path / 'run'}", *devices]
    shared.step("pretrain.py", CONFIGS / "linear_vae.yaml", *words, "--resume")
    assert [len(outside), len(inside)] == [own, not own]
    text = (CONFIGS / "linear_vae.yaml").read_text().replace("trainer:", "trainer:\n  devices: 2")
    (tmp_path / "two.yaml").write_text(text)
    shared.step("pretrain.py", tmp_path / "two.yaml", words[0], "--resume")
    assert outside[-1][0] == sys.executable and outside[-1][-3:] == [
        str(tmp_path / "two.yaml"),
        words[0],
        "--resume",
    ]


def test_a_step_that_fails_in_its_own_process_ends_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(shared.subprocess, "call", lambda words: 2)
    words = [f"folder={tmp_path / 'run'}", "trainer.devices=2"]
    with pytest.raises(SystemExit) as ended:
        shared.step("pretrain.py", CONFIGS / "linear_vae.yaml", *words)
    assert ended.value.code == 2


def test_an_option_has_the_type_of_its_default_and_help_shows_it():
    parser = argparse.ArgumentParser()
    shared.option(parser, "--count", "things", 5)
    shared.option(parser, "--out", "a folder", Path("runs/x"))
    shared.option(parser, "--name", "any name")
    shared.switch(parser, "--each", "every one")
    shared.overrides(parser, "keys")
    given = parser.parse_args(["--count", "7", "--out", "y", "--each", "a=1"])
    assert (given.count, given.out, given.name, given.each) == (7, Path("y"), None, True)
    assert given.overrides == ["a=1"]
    told = " ".join(parser.format_help().split())
    assert "things (default: 5)" in told and "any name (default" not in told
