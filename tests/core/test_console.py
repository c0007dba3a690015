"""A path or a name is printed literally, whatever characters it contains."""

import time

import pytest

from core import console
from core.console import plain_console
from tests.front_door import ROOT


@pytest.mark.parametrize("text", ["a[/x]", "[b]", "[red]x[/red]", ":smile:"])
def test_a_path_is_printed_literally(text, capsys):
    plain_console().print(f"{text}: done")
    plain_console(120).print(f"{text}: done")
    assert capsys.readouterr().out.count(text) == 2


@pytest.mark.parametrize("room", ["core", "contrastive", "vae", "probes", "scripts"])
def test_every_output_uses_this_console(room):
    for path in ROOT.glob(f"{room}/**/*.py"):
        assert "Console(" not in path.read_text() or path.name == "console.py", path


def test_long_loops_show_the_time_left(capsys, monkeypatch):
    """Without a terminal, as a plain line; a loop that ends at once prints nothing."""
    assert list(console.steps_left(3, "short")) == [0, 1, 2]
    assert not capsys.readouterr().err
    monkeypatch.setattr(console, "PLAIN_EVERY", 0.01)
    for _ in console.steps_left(4, "a probe", "epochs"):
        time.sleep(0.03)
    said = capsys.readouterr().err
    assert "a probe" in said and "epochs" in said and "/4" in said and "<" in said
