"""What commands share: options with their defaults, and the steps of a study in one process."""

import argparse
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import shared


@pytest.fixture
def fake(monkeypatch):
    """Put a command `fake` in place, whose main is the given function."""

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


def test_a_step_of_several_processes_is_started_as_a_process(fake, monkeypatch):
    fake(lambda words: pytest.fail("ran in this process"))
    called = []
    monkeypatch.setattr(shared.subprocess, "call", lambda words: called.append(words) or 2)
    with pytest.raises(SystemExit) as ended:
        shared.step("fake.py", "trainer.devices=2")
    assert ended.value.code == 2 and called[0][-1] == "trainer.devices=2"
    assert called[0][0] == sys.executable


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
