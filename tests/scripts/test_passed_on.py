"""What a user asks of a command reaches the functions that do the work, with its value. The work
itself is replaced, because other tests check it.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import vae.bitsback
import vae.container
import vae.unpack
from core.data import plain
from core.foreign import embeddings
from core.foreign import export as exporting
from core.frozen import Frozen
from core.method import LatentModel
from core.run import checkpoint, config
from probes import session
from probes.latents import curve
from probes.report import comparison, curve_figures, groups, tabular, truth_figures
from probes.report.page import build
from probes.samples import benchmark_sources, calibration, encoded, estimate
from probes.views import geometry
from probes.views import information as between_views
from scripts import (
    benchmark_mi,
    calibrate,
    collapse,
    compare,
    compress,
    decompress,
    demo,
    export,
    information,
    report,
)  # fmt: skip
from tests.reports import written
from tests.small_vaes import saved
from tests.spies import spy


def test_each_row_of_a_collapse_has_its_recipe_and_the_words_of_the_user(tmp_path, monkeypatch):
    def part(value):
        return {"value": value, "low": value - 1, "high": value + 1}

    keys = ("rate", "distortion", "nelbo", "lower", "upper")
    numbers = dict.fromkeys(keys, part(3.0)) | {"active_units": 1, "latent_dimensions": 2}
    trained = config.read("vlae_mnist", [])
    runs, probed = {}, []

    def step(script, path, *words):
        assert script == "pretrain.py" and words[-1] == "--resume"
        run = config.read(path, [str(word) for word in words[:-1]])
        runs[Path(run.folder).name] = run

    def measured(path, probe, words):
        probed.append((path.name, probe, words))
        return {"step": len(probed), "rate": numbers}

    class Latent(LatentModel):
        pass

    monkeypatch.setattr(collapse, "step", step)
    monkeypatch.setattr(collapse, "probed", measured)
    monkeypatch.setattr(
        collapse, "same_weights", lambda path, _: (Latent.__new__(Latent), trained, path)
    )
    given = spy(monkeypatch, curve, "reconstruct", lambda method, run, images: (run, run))
    drawn = spy(monkeypatch, curve_figures, "plane", lambda *words: None)
    words = ["--only", "vae,target_rate", "--out", str(tmp_path), "optim.epochs=3"]
    collapse.main([*words, "data.root=/data", "data.grey=true"])

    assert {name: run.optim.epochs for name, run in runs.items()} == {"vae": 3, "target_rate": 3}
    assert {run.data.root for run in runs.values()} == {"/data"}
    assert runs["target_rate"].model.rate.kind == "target_rate"
    assert runs["target_rate"].model.rate.nats == 7.84
    assert runs["vae"].method.endswith("BetaVAE")
    data = ["data.root=/data", "data.grey=true"]
    assert probed == [("vae", "rate", data), ("target_rate", "rate", data)]
    assert {(call["run"].data.root, call["images"]) for call in given} == {("/data", 8)}
    table = json.loads((tmp_path / "collapse.json").read_text())
    assert [(name, row["step"], row["config"]) for name, row in table.items()] == [
        ("vae", 1, "configs/beta_vae_mnist.yaml"),
        ("target_rate", 2, "configs/vae_pixelcnn_mnist.yaml"),
    ]
    asked = ["optim.epochs=3", "data.grey=true"]  # a root is that of this machine
    assert table["vae"]["overrides"] == ["optim.epochs=20", *asked]
    assert table["target_rate"]["overrides"][-2:] == asked
    (picture,) = drawn
    assert list(picture["found"]) == ["VAE", "target rate"]
    assert [title for title, _ in picture["shown"]] == ["images", "VAE", "target rate"]
    assert picture["path"] == tmp_path / "collapse.png"


def row_of(source: str, made: benchmark_sources.Known) -> dict:
    entry = {"value": 0.5, "error": 0.1, "side": "lower bound", "verdict": "converged"}
    return {
        "source": source, "dimensions": (1, 1), "truth": float(made.information),
        "own": float(made.pointwise.mean()), "estimators": {"infonce": entry},
    }  # fmt: skip


@pytest.fixture
def measured(monkeypatch):
    """What `calibrate` measures: the name of a source, its pairs, and the seed of the critics."""

    def measure(name, made, seed):
        return row_of(name, made)

    monkeypatch.setattr(truth_figures, "calibration", lambda found, path: None)
    return spy(monkeypatch, calibration, "measure", measure)


def test_calibrate_draws_each_source_with_a_seed_of_its_own(tmp_path, monkeypatch, measured):
    def source(pairs, seed):
        column = np.full((pairs, 1), float(seed))
        return benchmark_sources.Known(column, column, np.zeros(pairs), 0.25)

    monkeypatch.setattr(benchmark_sources, "SUITE", dict.fromkeys(("a x", "b", "c x", "d"), source))
    words = ["--pairs", "60", "--seed", "7", "--estimator-seed", "5", "--only", "x,d"]
    calibrate.main([*words, "--out", str(tmp_path / "here")])
    asked = [tuple(call.values()) for call in measured]
    assert [(name, len(made.x), made.x[0, 0], seed) for name, made, seed in asked] == [
        ("a x", 60, 7, 5),
        ("c x", 60, 9, 5),
        ("d", 60, 10, 5),
    ]
    found = json.loads((tmp_path / "here.json").read_text())
    assert (found["pairs"], found["seed"]) == (60, 7)
    assert "benchmark-mi" not in (tmp_path / "here.md").read_text()


FAKE = """
import json, pathlib, sys
import numpy as np

_, _, pairs, seed, folder = sys.argv
print(json.dumps(["first", "second", "third"]), flush=True)
for line in sys.stdin:
    command, name = line.split()
    if command == "draw":
        path = pathlib.Path(folder) / "pairs.npz"
        x = np.full((int(pairs), 1), float(seed))
        np.savez(path, x=x, y=-x, pointwise=np.full(len(x), len(name)), information=0.75)
        print(json.dumps({"file": str(path)}), flush=True)
    else:
        print(json.dumps({"peer": 0.625, "peer_seconds": len(name)}), flush=True)
"""


def test_a_peer_draws_and_estimates_the_tasks_that_were_asked_for(tmp_path, measured):
    (tmp_path / "fake.py").write_text(FAKE)
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "fake.py"} "$@"\n')
    interpreter.chmod(0o755)
    words = ["--peer", str(interpreter), "--pairs", "55", "--seed", "3", "--only", "first,ir"]
    calibrate.main([*words, "--out", str(tmp_path / "peer")])
    asked = [tuple(call.values()) for call in measured]
    assert [(name, *made.x.shape, made.x[0, 0], made.y[0, 0]) for name, made, _ in asked] == [
        (name, 55, 1, 3, -3) for name in ("first", "third")
    ]
    rows = json.loads((tmp_path / "peer.json").read_text())["rows"]
    assert [(row["peer"], row["peer_seconds"], row["own"]) for row in rows] == [(0.625, 5, 5)] * 2
    assert {row["truth"] for row in rows} == {0.75}
    with benchmark_mi.Peer(interpreter, 55, 3) as peer:
        assert peer.names == ["first", "second", "third"]
    assert peer.process.poll() is not None and not Path(peer.folder.name).exists()


FOUND = {
    "estimators": {}, "dimensions": [1, 2], "pairs": 60, "split": "held out", "conclusion": "done",
    "quantity": "I(X; Y)", "doubling": dict.fromkeys(("gain", "low", "high", "extrapolated"), 0.0),
}  # fmt: skip


def test_information_estimates_what_was_asked_with_the_encoder_that_was_named(
    tmp_path, monkeypatch, capsys
):
    x, y = np.arange(60.0)[:, None], np.arange(120.0).reshape(60, 2)
    np.savez(tmp_path / "pairs.npz", x=x, y=y)
    asked = spy(monkeypatch, estimate, "estimate", lambda *_: FOUND | {"remarks": ["of it"]})
    read = spy(monkeypatch, encoded, "encoded", lambda x, y, path: (x + 1, y + 2, "through it"))
    words = [str(tmp_path / "pairs.npz"), "--estimators", "infonce,ksg", "--seed", "4"]
    information.main([*words, "--critic", "conv", "--json"])
    information.main([*words, "--critic", "checkpoint=runs/a"])
    told = capsys.readouterr().out
    numbers, _, told = told.partition("\n")
    assert json.loads(numbers)["remarks"] == ["of it"]
    assert told.index("note: through it") < told.index("note: of it") < told.index("done")
    first, second = asked
    assert (first["x"] == x).all() and (first["y"] == y).all()
    assert (second["x"] == x + 1).all() and (second["y"] == y + 2).all()
    assert [call["critic"] for call in asked] == ["conv", "mlp"]
    assert read[0]["path"] == Path("runs/a")
    same = {(call["estimators"], call["seed"], call["name"]) for call in asked}
    assert same == {(("infonce", "ksg"), 4, words[0])}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose last.ckpt and best.ckpt are of different seeds."""
    top = tmp_path_factory.mktemp("passed") / "run"
    saved(top)
    (saved(top.with_name("other"), seed=1) / "last.ckpt").rename(top / "best.ckpt")
    return top


def test_compress_and_decompress_read_as_they_were_asked(run, tmp_path, monkeypatch, capsys):
    loaded = spy(monkeypatch, checkpoint, "load_method")
    coders = spy(monkeypatch, vae.bitsback, "compressor")
    images = spy(monkeypatch, plain, "plain_images")

    def write(file, *_, **__):
        file.write(b"a" * 2400)
        return vae.bitsback.Parts(popped=1536, pixels=3072, prior=1536)

    packed = spy(monkeypatch, vae.container, "write", write)
    out = tmp_path / "all.tb"
    words = ["--rows", "3", "--block", "4", "--images", "2", "--check", "--best", "--trust", "mine"]
    compress.main([str(run), "val", "-o", str(out), "data.sprites.validation=64", *words])
    told = capsys.readouterr().out
    assert told.startswith(f"{out}: 2 images in 2,400 bytes, 3.1250 bits/dim (net 0.5000); ")
    assert (loaded[0]["path"], loaded[0]["trusted"]) == (run / "best.ckpt", ["mine"])
    assert coders[0]["options"] == {"rows": 3}
    assert (images[0]["where"], images[0]["block"], images[0]["most"]) == ("val", 4, 2)
    assert images[0]["data"].sprites.validation == 64
    assert (packed[0]["count"], packed[0]["block"], packed[0]["check"]) == (2, 4, True)

    header = SimpleNamespace(batch=7, kind=vae.container.KINDS.index("npz"))
    models = []
    reader = SimpleNamespace(check_model=models.append, header=header)
    monkeypatch.setattr(vae.container, "opened", lambda path: nullcontext(reader))
    unpacked = spy(monkeypatch, vae.unpack, "write", lambda *_: 1)
    words = [str(run), str(out), "-o", str(tmp_path / "some"), "--only", "1:2"]
    decompress.main([*words, "--rows", "2", "--best", "--trust", "mine", "--as", "png"])
    decompress.main(words)
    assert [call["path"].name for call in loaded[1:]] == ["best.ckpt", "last.ckpt"]
    assert [call["trusted"] for call in loaded[1:]] == [["mine"], []]
    assert models[0] == packed[0]["model"] != models[1]
    assert [call["options"] for call in coders[1:]] == [
        {"rows": 2, "batch": 7}, {"rows": 512, "batch": 7},
    ]  # fmt: skip
    assert [(call["kind"], call["only"]) for call in unpacked] == [
        ("png", slice(1, 2)), ("npz", slice(1, 2)),
    ]  # fmt: skip


def test_export_writes_what_was_asked_of_the_checkpoint_that_was_named(
    run, tmp_path, monkeypatch, capsys
):
    loaded = spy(monkeypatch, checkpoint, "load_method")
    monkeypatch.setattr(exporting, "require_onnx", lambda: None)
    written_to = {
        name: spy(monkeypatch, exporting, name, lambda place, *_: [place])
        for name in ("write", "write_hub", "write_program", "write_onnx")
    }
    words = [str(run), "--best", "--trust", "mine", "-o", str(tmp_path / "out")]
    export.main([*words, "--hub", "--program"])
    assert (loaded[0]["path"], loaded[0]["trusted"]) == (run / "best.ckpt", ["mine"])
    assert {name: len(calls) for name, calls in written_to.items()} == {
        "write": 1, "write_hub": 1, "write_program": 1, "write_onnx": 0,
    }  # fmt: skip
    assert written_to["write_program"][0]["path"] == tmp_path / "out" / exporting.PROGRAM
    export.main([*words, "--onnx"])
    assert written_to["write_onnx"][0]["path"] == tmp_path / "out" / exporting.ONNX
    assert [len(written_to[name]) for name in ("write", "write_hub", "write_program")] == [2, 1, 1]
    frozen = spy(monkeypatch, Frozen, "load", lambda *_, **__: "frozen")
    spy(monkeypatch, session, "usable_device")
    tables = {
        kind: spy(monkeypatch, embeddings, f"write_{kind}", lambda place, *_: place)
        for kind in ("npz", "parquet")
    }
    words = [str(run), "--best", "--trust", "mine", "--device", "meta", "data.workers=0"]
    for kind in tables:
        export.main([*words, "--embeddings", str(tmp_path / f"a.{kind}")])
    for call in frozen:
        assert (call["path"], call["overrides"]) == (run / "best.ckpt", ["data.workers=0"])
        assert call["trusted"] == ("mine",) and call["options"]["device"].type == "meta"
    (npz,), (parquet,) = tables.values()
    assert (npz["path"], npz["frozen"]) == (tmp_path / "a.npz", "frozen")
    assert npz["train_pairs"] == between_views.TRAIN_PAIRS
    assert npz["views"] == (geometry.LIDAR_IMAGES, geometry.LIDAR_VIEWS)
    assert (parquet["path"], parquet["frozen"]) == (tmp_path / "a.parquet", "frozen")


def test_compare_and_report_show_what_was_asked(tmp_path, monkeypatch, capsys):
    runs = [
        str(written(tmp_path / name, seed=seed, data=data, print_=print_))
        for name, seed, data, print_ in (
            ("a", 0, "sprites", "f"), ("b", 1, "sprites", "f"), ("c", 0, "scenes", "e"),
        )
    ]  # fmt: skip
    lines = spy(monkeypatch, groups, "grouped")
    pages = spy(monkeypatch, build, "write", lambda lines, probes, path, *_: path.write_text(""))
    drawn = spy(monkeypatch, comparison, "compare", lambda *_: None)
    tables = [
        spy(monkeypatch, tabular, f"write_{kind}", lambda lines, probes, path: path)
        for kind in ("csv", "latex")
    ]
    files = {key: tmp_path / f"t.{key}" for key in ("png", "csv", "tex")}
    words = ["--out", str(files["png"]), "--csv", str(files["csv"]), "--latex", str(files["tex"])]
    compare.main([*runs[:2], *words, "--probes", "linear,knn"])
    compare.main([*runs, *words, "--each", "--mixed"])
    assert [call["path"] for call in drawn] == [files["png"]] * 2
    assert [calls[0]["path"] for calls in tables] == [files["csv"], files["tex"]]
    page = str(tmp_path / "page.html")
    report.main([*runs[:2], "-o", page, "--title", "Mine", "--quick", "--probes", "linear,knn"])
    report.main([*runs, "--out", page, "--each", "--mixed"])
    assert [(call["title"], call["explain"]) for call in pages] == [("Mine", False), ("", True)]
    for calls in (lines[:2], lines[2:]):
        few, each = calls
        assert [len(call["reports"]) for call in calls] == [2, 3]
        assert set(few["probes"]) == {"linear", "knn"} < set(each["probes"])
    assert [len(call[next(iter(call))]) for call in pages] == [1, 3]  # seeds share a line, or not
    told = capsys.readouterr().out
    assert all(f": {files[key]}\n" in told for key in files)


def test_the_demo_probes_and_compares_what_it_trains(tmp_path, monkeypatch):
    steps = spy(monkeypatch, demo, "step", lambda *_: None)
    demo.main(["--out", str(tmp_path)])
    called = [(call["script"], [str(word) for word in call["words"]]) for call in steps]
    runs = [str(tmp_path / name) for name in ("simclr", "moco", "beta_vae")]
    trained = [words for script, words in called if script == "pretrain.py"]
    assert [words[1:] for words in trained] == [[f"folder={run}", "--resume"] for run in runs]
    for words in trained:
        run = config.read(words[0], words[1:2])
        assert Path(run.folder).name in Path(words[0]).stem
    others = [(script, words) for script, words in called if script != "pretrain.py"]
    assert others == [
        ("probe.py", [runs[0], "--probes", "information"]),
        ("probe.py", runs),
        ("compare.py", [*runs, "--out", str(tmp_path / "compare.png")]),
        ("report.py", [*runs, "--out", str(tmp_path / "report.html")]),
    ]
