"""The pages of docs/theory show what their command prints now, and no other numbers."""

import re

import pytest

from scripts import examples
from tests.front_door import ROOT

PAGES = ROOT / "docs" / "theory"
NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
# a trained network rounds differently on another processor
TOLERANCE = {"vae": 0.06}


@pytest.fixture(scope="module")
def printed() -> dict[str, list[str]]:
    return {name: examples.lines(name) for name in examples.EXAMPLES}


def page(name: str) -> tuple[str, str, str]:
    """The command, the shown output and the prose of a page."""
    text = (PAGES / f"{name}.md").read_text()
    (command,) = re.findall(r"```bash\n(.*?)\n```", text, re.DOTALL)
    (output,) = re.findall(r"```text\n(.*?)\n```", text, re.DOTALL)
    return command, output, re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in NUMBER.findall(text)]


@pytest.mark.parametrize("name", examples.EXAMPLES)
def test_a_page_shows_what_its_command_prints(name, printed):
    command, output, _ = page(name)
    assert command == f"twobounds examples {name}"
    shown, now = output.splitlines(), printed[name]
    assert len(shown) == len(now)
    for line, fresh in zip(shown, now, strict=True):
        assert NUMBER.sub("#", line) == NUMBER.sub("#", fresh)
        close = TOLERANCE.get(name, 2e-4)
        assert numbers(line) == pytest.approx(numbers(fresh), rel=close, abs=close / 2)


@pytest.mark.parametrize("name", examples.EXAMPLES)
def test_prose_has_only_numbers_that_the_command_prints(name, printed):
    held = {text.lstrip("+-") for line in printed[name] for text in NUMBER.findall(line)}
    prose = page(name)[2]
    for text in re.findall(r"\d[\d,]*\.\d+|\d+,\d{3}", prose):
        assert text in held, f"{name}: {text} is not printed"


def test_every_page_is_listed():
    listed = re.findall(r"\(([\w-]+)\.md\)", (PAGES / "README.md").read_text())
    assert listed == list(examples.EXAMPLES)
    assert {path.stem for path in PAGES.glob("*.md")} == {*listed, "README"}


def test_the_examples_say_what_the_theory_says(printed):
    """The values that the theory fixes, from the printed text."""
    text = {name: "\n".join(lines) for name, lines in printed.items()}
    assert "KL(fair || loaded) = 0.5108 nats, KL(loaded || fair) = 0.3681" in text["coins"]
    assert "m = 0.0000, s = 2.0616" in text["modes"]  # sqrt(4 + .25)
    assert "= 2.914 nats" in text["blind"]
    assert "  65536   11.090  9.090, 6.090, 3.090, 1.090" in text["ceiling"]
    assert "D = 0.1175" in text["quantise"]  # Max 1960
    assert "net 0.9163" in text["bits-back"]  # -log(.4)
    assert "at most log 4 = 1.3863" in text["holes"]
    assert "KL = I(X; Y) = 0.5108" in text["processing"]  # -1/2 log .36
    rate, distortion, total, low, high, gap = numbers(printed["vae"][3])[1:]
    assert total == pytest.approx(rate + distortion, abs=0.02) and low <= high <= rate + 0.01
    assert gap == pytest.approx(rate - low, abs=0.02)


def test_the_command_lists_runs_and_refuses(capsys):
    examples.main([])
    listed = capsys.readouterr().out
    assert all(line in listed for line in examples.EXAMPLES)
    examples.main(["coins", "shell"])
    out = capsys.readouterr().out
    assert "H of a fair coin" in out and "e^392" in out
    with pytest.raises(SystemExit) as stop:
        examples.main(["coin"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: there is no example 'coin' (did you mean 'coins'?)\n"
