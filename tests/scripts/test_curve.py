"""The rate-distortion script by its command line, and a short sweep against the exact curve."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from core.information.rate_distortion import WaterFilling
from core.run import checkpoint, config
from core.run.folder import RunFolder
from core.run.optim import build_optimizer
from probes.latents import curve, rate, rate_head
from probes.latents import rate_parts as collapse
from scripts import rate_distortion as script
from scripts import shared

CONFIG = str(Path(__file__).parents[2] / "configs" / "linear_vae.yaml")
TINY = [
    "optim.epochs=16",
    "optim.lr=0.1",
    "model.latent=4",
    "trainer.validate_every=0",
    "wandb=disabled",
]
SIZES = {"side": 4, "rank": 3, "decay": 0.4, "train": 16384, "validation": 256, "test": 8192}
TINY += [f"data.linear_gaussian.{key}={value}" for key, value in SIZES.items()]


@pytest.fixture
def door(monkeypatch):
    """Call the script with these words; the scripts that it calls run in this process."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["rate_distortion.py", *map(str, words)])
        script.main()

    def step(name, *words):
        module = __import__(f"scripts.{name.removesuffix('.py')}", fromlist=["main"])
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        called.append(name)
        return module.main()

    monkeypatch.setattr(
        rate, "CANDIDATES", 512
    )  # neither the sandwich nor the parts of R are used here
    monkeypatch.setattr(collapse, "PAIRS", 2**20)
    called: list[str] = []
    for module in (script, shared):
        monkeypatch.setattr(module, "step", step)
    call.called = called
    return call


def test_a_short_sweep_lies_on_the_curve_and_is_not_trained_twice(door, tmp_path, capsys):
    door(CONFIG, *TINY, "--betas", "6,1", "--out", tmp_path)
    table = json.loads((tmp_path / "rate_distortion.json").read_text())
    assert (
        table["format"] == curve.FORMAT
        and (tmp_path / "rate_distortion.png").stat().st_size > 10_000
    )
    points = table["curves"][0]["points"]
    assert [point["beta"] for point in points] == [1.0, 6.0]
    source = WaterFilling([variance + 0.05**2 for variance in (16, 6.4, 2.56, *13 * [0])])
    for point in points:
        assert point["reference"] == pytest.approx(
            source.at_distortion(point["squared_error"]).rate, abs=1e-6
        )
        assert point["excess"]["high"] > 0 and abs(point["excess"]["share"]) < 0.01
        ideal = source.at_level(
            point["beta"] * 0.25**2
        )  # the optimum of D + beta R has the slope -1 / (2 beta sigma^2)
        assert point["rate"]["value"] == pytest.approx(ideal.rate, rel=0.02)
        assert point["distortion"]["value"] == pytest.approx(
            point["squared_error"] / (2 * 0.25**2) + 8 * math.log(2 * math.pi * 0.25**2)
        )
    assert door.called == ["pretrain.py", "pretrain.py", "probe.py", "probe.py"]

    written = {path: path.read_bytes() for path in tmp_path.rglob("last.ckpt")}
    door(CONFIG, *TINY, "--betas", "1,6", "--out", tmp_path)
    said = capsys.readouterr().out
    assert door.called[4:] == ["probe.py"] * 2 and "not trained again" in said
    assert said.count("rate was measured before") == 2
    assert all(path.read_bytes() == kept for path, kept in written.items())
    with pytest.raises(SystemExit):
        door(CONFIG, *TINY, "--betas", "1", "optim.lr=0.01", "--out", tmp_path)
    assert "optim.lr" in capsys.readouterr().err


def test_a_warm_start_begins_with_the_neighbour_and_its_own_price(door, tmp_path, monkeypatch):
    small = [*TINY, "optim.epochs=1", "data.linear_gaussian.train=512"]
    begun = {}
    real = script.start_from

    def start_from(neighbour, run):
        real(neighbour, run)
        begun["first"], begun["then"] = (
            checkpoint.read(Path(folder) / "last.ckpt") for folder in (neighbour, run.folder)
        )

    monkeypatch.setattr(script, "start_from", start_from)
    door(CONFIG, *small, "--betas", "1,2", "--warm-start", "--out", tmp_path)
    first, then = begun["first"]["method"], begun["then"]["method"]
    assert begun["then"]["step"] == 0 and first["decoder.0.weight"].equal(then["decoder.0.weight"])
    assert (first["schedule.price"], then["schedule.price"]) == (1, 2)
    assert not checkpoint.read(tmp_path / "beta_2" / "last.ckpt")["method"][
        "decoder.0.weight"
    ].equal(then["decoder.0.weight"])
    cold, warm = json.loads((tmp_path / "rate_distortion.json").read_text())["curves"][0]["points"]
    assert "started_from" not in cold and warm["started_from"] == str(tmp_path / "beta_1")
    assert warm["started_from_digest"] == cold["digest"]


@pytest.mark.parametrize("step, done", [(0, False), (31, False), (32, True)])
def test_a_run_is_finished_at_its_last_step(tmp_path, step, done):
    words = [*TINY, "data.linear_gaussian.train=512", "optim.batch_size=256", f"folder={tmp_path}"]
    run = config.read(CONFIG, [*words, "resume=true"])  # 16 epochs of 2 batches
    method = checkpoint.build_method(run, (1, 4, 4))
    state = checkpoint.State(run, method, build_optimizer(method, run.optim), step)
    RunFolder(tmp_path).create(run)
    checkpoint.save(tmp_path / "last.ckpt", state)
    assert script.finished(run) is done


def test_files_of_a_sweep_are_measured_and_drawn(monkeypatch, tmp_path, capsys):
    asked = []

    def probed(path, probe):
        asked.append(probe)
        beta = float(path.parent.name.removeprefix("beta_"))
        rate = {"images": 32, "unit": "nats an image", "split": "test", "image_values": 784}
        for key, value in (("rate", 30 - beta), ("distortion", 70 + 2 * beta), ("nelbo", 100.0)):
            rate[key] = {"value": value, "low": value - 1, "high": value + 1, "estimator": key}
        found = {"checkpoint": str(path), "digest": "0", "method": "beta", "data": "mnist"}
        file = {"images": 1000, "gross": 0.19 + beta / 100, "net": 0.18, "floored": 0.181}
        return found | {"rate": rate} | ({"compression": file} if "compression" in asked else {})

    monkeypatch.setattr(script, "probed", probed)
    monkeypatch.setattr(script, "pictures", lambda *given: [])
    folders = [tmp_path / "beta_1", tmp_path / "beta_4"]
    monkeypatch.setattr(script, "sweep", lambda options: folders)
    monkeypatch.setattr("probes.report.comparison.require_one_data_set", lambda *given: None)
    config = CONFIG.replace("linear_vae", "beta_vae_sprites")
    made, sizes = [], []
    for more in ([], ["--files"]):
        script.main([config, "--betas", "1,4", "--out", str(tmp_path), *more])
        made.append(capsys.readouterr().out)
        sizes.append(Image.open(tmp_path / "rate_distortion.png").size)
    assert asked == ["rate"] * 4 + ["compression"] * 2
    assert "0.2300" in made[1] and "0.2300" not in made[0] and sizes[1][1] > sizes[0][1]
    points = json.loads((tmp_path / "rate_distortion.json").read_text())["curves"][0]["points"]
    assert [point["file"]["gross"] for point in points] == [0.2, 0.23]
    with pytest.raises(SystemExit):
        script.main(["--checkpoint", "runs/x", "--files"])
    assert "--files: needs a config to sweep" in capsys.readouterr().err


def test_a_frozen_encoder_has_a_curve_through_the_rate_head(door, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rate_head, "MAX_IMAGES", dict.fromkeys(rate_head.MAX_IMAGES, 256))
    for key in ("NOTHING", "FIRST", "NEXT"):
        monkeypatch.setattr(rate_head, key, (3, 1e-2))
    run = config.read(
        CONFIG.replace("linear_vae", "simclr_sprites"), ["wandb=disabled", "model.backbone=small"]
    )
    method = checkpoint.build_method(run, (3, 32, 32))
    checkpoint.save(
        tmp_path / "last.ckpt", checkpoint.State(run, method, build_optimizer(method, run.optim))
    )
    door("--checkpoint", tmp_path, "--out", tmp_path)
    table, kept = (
        json.loads((tmp_path / name).read_text())
        for name in ("rate_distortion.json", "probe/probe.json")
    )
    assert (
        table["reference"] is None
        and table["data"] == "sprites"
        and (tmp_path / "rate_distortion.png").stat().st_size > 10_000
    )
    found, head = table["curves"][0], kept["rate_head"]
    assert [point["rate"]["value"] for point in found["points"]] == [
        point["rate"]["value"] for point in head["points"]
    ]
    assert found["nothing"]["rate"]["value"] == 0 and found["images"] == 256
    capsys.readouterr()
    door("--checkpoint", tmp_path, "--out", tmp_path)
    assert "rate_head was measured before" in capsys.readouterr().out


def test_the_error_of_the_excess_is_that_of_its_own_terms():
    torch.manual_seed(0)
    source, sigma = WaterFilling([2.0, 1.0, 0.5]), 0.4
    known = curve.Reference(source, sigma)
    noise = torch.randn(4000, 2, dtype=torch.float64) @ torch.tensor(
        [[0.5, 0.3], [0.0, 0.8]], dtype=torch.float64
    )
    at = source.at_distortion(0.6)
    r, d = at.rate + 0.02 + noise[:, 0], known.distortion(0.6) + noise[:, 1]

    def entry(x):
        half = 1.96 * (x.std() / len(x) ** 0.5).item()
        return {
            "value": x.mean().item(),
            "low": x.mean().item() - half,
            "high": x.mean().item() + half,
        }

    found = known.excess({"rate": entry(r), "distortion": entry(d), "nelbo": entry(r + d)})[
        "excess"
    ]
    k = -at.slope * 2 * sigma**2
    assert (found["high"] - found["low"]) / 2 == pytest.approx(
        entry(r + k * d)["high"] - entry(r + k * d)["value"], rel=0.02
    )
    assert found["low"] < 0.02 < found["high"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--checkpoint"),
        ([CONFIG, CONFIG], "one config"),
        (["no.yaml"], "no such config"),
        ([CONFIG, "--betas", "1,two"], "'two' is not a number"),
        ([CONFIG, "--betas", "1,-2"], "above 0"),
        ([CONFIG, "--betas", "1,1.0"], "twice"),
        ([CONFIG, "folder=x"], "--out"),
        ([CONFIG, "model.rate.beta=2"], "--betas"),
        ([CONFIG, "model.rate.kind=target_rate", "model.rate.nats=3"], "no fixed beta"),
        ([CONFIG, "--picture", "x.pdf"], ".png"),
        ([CONFIG.replace("linear_vae", "simclr_sprites")], "--checkpoint"),
        ([CONFIG, "--checkpoint", "runs/none"], "two pictures"),
        (["--checkpoint", "runs/none", "--betas", "1"], "--betas"),
        (["--checkpoint", "runs/none", "--warm-start"], "--warm-start"),
        (["--checkpoint", "runs/none", "optim.lr=1"], "data.*"),
        (["--checkpoint", "runs/none"], "no such checkpoint"),
    ],
)
def test_invalid_words_are_one_line(door, words, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        door(*words, *(["--out", tmp_path / "out"]))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and said in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_warm_start_leaves_a_run_that_has_begun_as_it_is(tmp_path, monkeypatch):
    began: list[str] = []
    monkeypatch.setattr(script, "finished", lambda run: False)
    monkeypatch.setattr(script, "step", lambda *words: None)
    monkeypatch.setattr(
        script, "start_from", lambda old, run: began.append(f"{old.name} {Path(run.folder).name}")
    )
    (tmp_path / "beta_2").mkdir()
    (tmp_path / "beta_2" / "last.ckpt").touch()
    words = [CONFIG, "--betas", "1,2,3", "--out", str(tmp_path)]
    script.sweep(script.arguments([*words, "--warm-start"]))
    assert began == ["beta_2 beta_3"]  # the first has no neighbour, the second has steps of its own
    script.sweep(script.arguments(words))
    assert len(began) == 1
