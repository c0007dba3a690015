"""Measured and true information: sprites have as many contents as their keys say, and the commands
make a table and a picture from configs.
"""

import json
import math
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from core.data.sprites import SpritesConfig, best_infonce
from core.errors import UserError
from core.run import config
from probes.report import schema as report
from probes.samples import truth
from scripts import captions_truth, shared, sprites_truth


def test_every_m_is_the_number_of_contents_it_says():
    assert {
        m: SpritesConfig(**sizes).combinations for m, sizes in sprites_truth.SPRITES.items()
    } == {m: m for m in sprites_truth.SPRITES}


def report_of(m: int, **critics: list[float]) -> dict:
    """A report whose critics reach these shares of the ideal at K = 16, 32, ..."""
    sweeps = {}
    for critic, shares in critics.items():
        ideal = {2**e: best_infonce(2**e, m) for e in range(4, 4 + len(shares))}
        rows = [
            {"K": k, "bound": s * x, "low": s * x - 0.1, "high": s * x + 0.1}
            for s, (k, x) in zip(shares, ideal.items(), strict=True)
        ]
        sweeps[critic] = {
            "sweep": [
                {**row, "best_possible": x} for row, x in zip(rows, ideal.values(), strict=True)
            ]
        }
    words = {
        "quantity": "I(V1; V2)",
        "estimator": "InfoNCE",
        "side": "lower bound",
        "split": "test",
        "unit": "nats",
        "images": 100,
    }
    return {
        **dict.fromkeys(("checkpoint", "digest", "method", "data"), "a"),
        **dict.fromkeys(("step", "seed"), 0),
        **{key: {} for key in ("identity", "options", "absent")},
        "format": report.FORMAT,
        "information": {**words, "truth": math.log(m), "critics": sweeps},
    }


def test_the_script_trains_and_probes_each_m_and_makes_the_table_and_the_picture(
    tmp_path, monkeypatch, capsys
):
    asked = []

    def step(script: str, *words: object) -> object:
        """Replaces minutes of training: checks the arguments like the script itself, and writes a
        report.
        """
        asked.append(script)
        if script == "pretrain.py":
            run = config.read(words[0], [str(word) for word in words[1:] if word != "--resume"])
            assert (run.model.temperature, run.seed) == (
                0.07,
                5,
            ) and f"m{run.data.sprites.combinations}" in run.folder
        else:
            shares = [0.9, 1.0] if words[0].name == "m16" else [0.98, 0.99]
            made = report_of(int(words[0].name[1:]), common=shares, native=shares[::-1])
            return [made]

    picture = tmp_path / "pictures" / "truth.png"
    words = [
        "--contents",
        "288,16",
        "--out",
        str(tmp_path / "runs"),
        "--picture",
        str(picture),
        "seed=5",
    ]
    monkeypatch.setattr(sys, "argv", ["sprites_truth.py", *words])
    for module in (sprites_truth, shared):
        monkeypatch.setattr(module, "step", step)
    sprites_truth.main()
    assert asked == ["pretrain.py", "probe.py"] * 2
    table = json.loads(picture.with_suffix(".json").read_text())
    assert (
        table["recipe"]["overrides"] == [*sprites_truth.RECIPE, "seed=5"]
        and table["critic"] == "common"
    )
    assert [(c["value"], c["truth"], set(c["others"])) for c in table["contents"]] == [
        ("16", math.log(16), {"native"}),
        ("288", math.log(288), {"native"}),
    ]
    first = table["contents"][0]["sweep"][0]
    assert (
        first["K"] == 16
        and first["share"] == pytest.approx(0.9)
        and first["measured"] == pytest.approx(0.9 * best_infonce(16, 16))
    )
    assert truth.least(table) == pytest.approx({"common": 0.9, "native": 0.9})
    assert "measured / ideal" in (told := capsys.readouterr().out) and "90.0 % (common)" in told
    assert imread(picture).std() > 0.05


def test_captions_of_each_kind_start_from_the_one_before_and_stand_beside_their_truth(
    tmp_path, monkeypatch, capsys
):
    runs, measured = [], []

    def step(script: str, *words: object) -> object:
        if script == "pretrain.py":
            run = config.read(words[0], [str(word) for word in words[1:] if word != "--resume"])
            runs.append((Path(run.folder).name, Path(run.init).name, run.seed))
            told = Path(run.folder).name.removeprefix("tell")
            assert run.data.captioned_sprites.tell == (float(told) if run.init else 0.5)
            return None
        measured.append(words[0].name)
        shares = [0.9, 1.2] if words[0].name == "tell0.5" else [0.98, 0.99]
        made = report_of(288, common=shares, native=shares)
        return [made | {"captions": made.pop("information")}]

    picture = tmp_path / "truth.png"
    words = ["--tell", "0.5,1", "--out", str(tmp_path), "--picture", str(picture), "seed=5"]
    for module in (captions_truth, shared):
        monkeypatch.setattr(module, "step", step)
    captions_truth.main(words)
    # 0.8 and 0.6 lie on the way: a setting does not depend on which others were asked for
    order = ["first", "tell1", "tell0.8", "tell0.6", "tell0.5"]
    assert runs == [(name, init, 5) for name, init in zip(order, ["", *order], strict=False)]
    assert measured == ["tell1", "tell0.5"]
    table, told = json.loads(picture.with_suffix(".json").read_text()), capsys.readouterr().out
    assert [content["value"] for content in table["contents"]] == ["1", "0.5"]
    assert "99.0 % of the ideal\n" in told and "ABOVE" in told.partition("p = 0.5: ")[2]
    with pytest.raises(SystemExit):
        captions_truth.main(["--tell", "0"])
    assert "--tell: must be above 0 and at most 1, got 0" in capsys.readouterr().err


def test_a_report_without_a_truth_is_refused():
    with pytest.raises(UserError, match="common"):
        truth.collect({"2": {"checkpoint": "a", "information": {"truth": None}}}, "common", "M")


@pytest.mark.parametrize(
    "words, key", [(["--contents", "3"], "M = '3'"), (["--picture", "a.jpg"], "a.jpg")]
)
def test_impossible_requests_are_one_line(words, key, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sprites_truth.py", *words])
    with pytest.raises(SystemExit) as stopped:
        sprites_truth.main()
    assert stopped.value.code == 2 and key in capsys.readouterr().err
