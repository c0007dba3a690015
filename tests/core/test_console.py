"""A path or a name is printed literally, whatever characters it contains."""

import pytest

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
