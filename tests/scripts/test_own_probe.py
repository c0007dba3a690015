"""A probe in a package of the user's own: how it is found, and how its mistakes are reported."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from core.frozen import Frozen
from scripts import compare
from scripts import report as page_of
from tests.probed import call, report, saved

ROOT = Path(__file__).parents[2]

BODY = """
from pathlib import Path
from probes.probe import Found, Probe

class Counted(Probe):
    name, summary, columns = "counted", "test images", ("images",)
    options = {"times": 1}
    def measure(self, frozen, times):
        return Found({"images": times * len(frozen.features("test").x)})
    def cells(self, numbers):
        return [str(numbers["images"])]

class Raises(Counted):
    name = "raises"
    def measure(self, frozen, times):
        raise ValueError("a mistake of mine")

class Returns(Counted):
    name = "returns"
    def measure(self, frozen, times):
        return {"images": 1}

class Holds(Counted):
    name = "holds"
    def measure(self, frozen, times):
        return Found({"images": frozen.features("test").x[0, 0]})

class Misses(Counted):
    name = "misses"
    def headline(self, numbers):
        return {"misses/a": numbers["absent"]}

class Wide(Counted):
    name, columns = "wide", ("one", "two")

class Draws(Counted):
    name = "draws"
    def figures(self, found, frozen, folder):
        return {"draws": Path("nowhere.png")}

class Nameless(Probe):
    pass

class Step(Counted):
    name = "step"

class Linear(Counted):
    name = "linear"

class Again(Counted):
    pass
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The current folder with a package `ownprobes`, which is not on Python's path."""
    (tmp_path / "ownprobes").mkdir()
    (tmp_path / "ownprobes" / "made.py").write_text(BODY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    yield tmp_path / "ownprobes" / "made.py"
    for name in ("ownprobes.made", "ownprobes"):
        sys.modules.pop(name, None)


def test_a_package_in_the_current_folder_is_found_and_its_option_has_a_short_name(package):
    saved(package.parents[1])
    call("last.ckpt", "--probes", "ownprobes.made.Counted", "counted.times=3")
    found = report(package.parents[1])
    assert found["counted"] == {"images": 600} and found["options"]["counted"] == {"times": 3}


def test_the_probe_of_the_documentation_has_numbers_pictures_and_a_panel(package, capsys):
    """As it stands in docs/extending.md."""
    folder = package.parents[1]
    text = (ROOT / "docs/extending.md").read_text()
    (code,) = re.findall(r"^```python\n# mypackage/spectrum.py\n(.*?)^```", text, re.M | re.S)
    package.write_text(code)
    saved(folder)
    call(folder, "--probes", "ownprobes.made.Spectrum", "spectrum.percent=50")
    found = report(folder)["spectrum"]
    assert (
        sum(found["shares"][: found["components"]])
        >= 0.5
        > sum(found["shares"][: found["components"] - 1])
    )
    assert "components hold 50 %" in capsys.readouterr().out
    assert (folder / "probe/spectrum.png").is_file()
    page = folder / "report.html"
    page_of.main([str(folder), "--probes", "ownprobes.made.Spectrum", "-o", str(page)])
    shown = page.read_text()
    assert "It is no bound on information" in shown and "share of variance" in shown
    picture = folder / "compare.svg"
    compare.main([str(folder), "--probes", "ownprobes.made.Spectrum", "--out", str(picture)])
    assert "Shares of variance" in picture.read_text() and "for 50 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("Raises", "ValueError: a mistake of mine"),
        ("Returns", "TypeError: measure must return probes.probe.Found"),
        ("Holds", "TypeError: Object of type Tensor is not JSON serializable"),
        ("Misses", "KeyError: 'absent'"),
        ("Wide", "ValueError: a table needs as many cells and values as columns: 2 columns, 1 "),
    ],
)
def test_a_probe_that_fails_is_absent_and_the_others_continue(package, capfd, kind, reason):
    folder = package.parents[1]
    saved(folder)
    with pytest.raises(SystemExit) as stopped:
        call("last.ckpt", "--probes", f"ownprobes.made.{kind},ownprobes.made.Counted")
    found, (said, err) = report(folder), capfd.readouterr()
    assert stopped.value.code == 2 and "Traceback" in err
    name = kind.lower()
    assert err.splitlines()[-1].startswith(f"error: last.ckpt: the probe {name} raised {reason}")
    assert found["absent"][name].startswith(f"it raised {reason}") and name not in found
    assert found["counted"] == {"images": 200} and f"no {name}: it raised" in said


def test_numbers_without_their_picture_are_kept_and_measured_again(package, capfd):
    saved(package.parents[1])
    for _ in range(2):
        with pytest.raises(SystemExit):
            call("last.ckpt", "--probes", "ownprobes.made.Draws")
        said, err = capfd.readouterr()
        assert "figures must save its pictures into `folder`" in err and "before" not in said
        found = report(package.parents[1])
        assert found["draws"] == {"images": 200} and not found["absent"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["Countet"], "'Countet' of ownprobes.made is not a subclass of probes.probe.Probe (did"),
        (["Nameless"], "ownprobes.made.Nameless needs a `name`: one word, such as"),
        (["Step"], "the name 'step' of ownprobes.made.Step is taken; choose another"),
        (["Linear"], "the name 'linear' of ownprobes.made.Linear is taken; choose another"),
        (["Counted", "Again"], "two probes have the name 'counted'; rename one of them"),
    ],
)
def test_an_impossible_name_is_refused_before_anything_is_read(package, capsys, words, line):
    with pytest.raises(SystemExit) as stopped:
        call("nowhere", "--probes", ",".join(f"ownprobes.made.{word}" for word in words))
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: --probes: {line}")


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("counted.time=2", "counted.time: the probe has no such option (did you mean 'times'?)"),
        (
            "count.times=2",
            "'count': this call measures no such probe (did you mean 'counted'?)",
        ),
        ("counted.times=0", "counted.times: must be 1 or more, got 0"),
    ],
)
def test_a_wrong_option_is_one_line(package, capsys, word, line):
    with pytest.raises(SystemExit) as stopped:
        call("nowhere", "--probes", "ownprobes.made.Counted", word)
    assert stopped.value.code == 2 and capsys.readouterr().err == f"error: {line}\n"


def test_numbers_of_an_earlier_version_of_a_probe_are_measured_again(package, capsys):
    folder = package.parents[1]
    saved(folder)
    call("last.ckpt", "--probes", "ownprobes.made.Counted")
    capsys.readouterr()
    package.write_text(BODY.replace('"images": times', '"n": times').replace('["images"]', '["n"]'))
    sys.modules.pop("ownprobes.made")
    call("last.ckpt", "--probes", "ownprobes.made.Counted")
    assert report(folder)["counted"] == {"n": 200}
    assert "before" not in capsys.readouterr().out
    assert json.loads((folder / "probe/probe.json").read_text())["options"]["counted"]


def test_numbers_of_changed_code_are_measured_again(tmp_path, monkeypatch, capsys):
    """The probe's file stays; a module that it imports changes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TWOBOUNDS_CACHE", str(tmp_path / "cache"))
    helper = tmp_path / "helper_of_mine.py"
    helper.write_text("TIMES = 1\n")
    body = BODY.partition("class Raises")[0].replace("return Found(", "return Found(")
    body = "from helper_of_mine import TIMES\n" + body.replace("times * len", "TIMES * len")
    (tmp_path / "counting_of_mine.py").write_text(body)
    saved(tmp_path / "run")
    words = (tmp_path / "run", "--probes", "counting_of_mine.Counted")
    call(*words)
    call(*words)
    assert "counted was measured before" in capsys.readouterr().out
    assert report(tmp_path / "run")["counted"] == {"images": 200}
    helper.write_text("TIMES = 20\n")
    for name in ("helper_of_mine", "counting_of_mine"):
        del sys.modules[name]
    call(*words)
    assert report(tmp_path / "run")["counted"] == {"images": 4000}
    assert "was measured before" not in capsys.readouterr().out


def test_features_of_a_method_of_ones_own_change_with_its_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TWOBOUNDS_CACHE", str(tmp_path / "cache"))
    package = tmp_path / "methods_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "pool.py").write_text("def pool(x):\n    return x\n")
    (package / "vae.py").write_text(
        "from methods_of_mine.pool import pool\nfrom vae.beta import BetaVAE\n"
        "class Mine(BetaVAE):\n    def embed(self, x):\n        return pool(super().embed(x))\n"
    )
    saved(tmp_path / "run")
    path = tmp_path / "run" / "last.ckpt"

    def features():
        found = torch.load(path, weights_only=True)
        found["config"]["method"] = "methods_of_mine.vae.Mine"
        torch.save(found, tmp_path / "last.ckpt")
        trusted = ("methods_of_mine",)
        return Frozen.load(tmp_path / "last.ckpt", trusted=trusted)

    first = features()
    x = first.features("test").x
    assert features().features("test").x.equal(x) and features().identity == first.identity
    (package / "pool.py").write_text("def pool(x):\n    return 2 * x\n")
    for name in [name for name in sys.modules if name.startswith("methods_of_mine")]:
        del sys.modules[name]
    second = features()
    assert second.weights == first.weights and second.identity != first.identity
    assert second.features("test").x.equal(2 * x)
