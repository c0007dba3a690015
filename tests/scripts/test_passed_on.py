"""What a user asks of a command reaches the functions that do the work, with its value. The work
itself is replaced, because other tests check it.
"""

import json
import math
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
from core.errors import UserError
from core.foreign import embeddings
from core.foreign import export as exporting
from core.frozen import Frozen
from core.method import LatentModel
from core.run import checkpoint, config
from probes import session
from probes.labels.knn import online_knn
from probes.latents import curve
from probes.probe import Probe
from probes.report import comparison, curve_figures, groups, tabular, truth_figures
from probes.report.page import build
from probes.samples import benchmark_sources, calibration, encoded, estimate
from probes.views import geometry
from probes.views import information as between_views
from scripts import (
    benchmark_mi,
    calibrate,
    captions_truth,
    collapse,
    compare,
    compress,
    decompress,
    demo,
    export,
    image_truth,
    information,
    pretrain,
    probe,
    rate_distortion,
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


def test_pretrain_hands_each_part_what_the_others_made(tmp_path, monkeypatch):
    """A run of several processes, of which this is the first, and then another one."""
    made, first = {}, []

    def note(name, result=None):
        def called(*given, **named):
            made[name] = (given, named)
            return result

        return called

    fabric = SimpleNamespace(device="a device", world_size=4)
    training = SimpleNamespace(state=SimpleNamespace(wandb_id="kept"))
    loop = SimpleNamespace(begin=note("begin"), to_the_end=note("to_the_end"))
    for place, result in {
        "core.data.datasets.open_source": "train", "core.run.setup.start_fabric": fabric,
        "core.run.setup.prepare": training, "core.run.validation.Validation": "validation",
        "core.run.dry_run.dry_run": None, "core.run.loop.Loop": loop,
        "core.run.logger.Logger": SimpleNamespace(id="new"),
        "core.run.folder.RunFolder.open": None, "core.run.local_loggers.require": None,
        "core.run.preemption.requeue_while_starting": None,
    }.items():  # fmt: skip
        monkeypatch.setattr(place, note(place.rpartition(".")[2], result))
    for fabric.is_global_zero in (True, False):
        made.pop("Logger", None)
        pretrain.main(["simclr_sprites", f"folder={tmp_path / 'run'}", "seed=7"])
        run = made["Validation"][0][0]
        assert run.seed == 7 and made["Validation"][0][1:] == ("a device", "train", 4, online_knn)
        assert made["open_source"][0] == (run.data, "train", 7)
        assert made["prepare"][0][:3] == (fabric, run, "train")
        assert made["dry_run"][0] == (training, "validation")
        given, named = made["open"]
        assert given[1:] == (training.state, "train") and named == {"first": fabric.is_global_zero}
        (of, validation, folder, logger), _ = made["Loop"]
        assert (of, validation, folder.path) == (training, "validation", tmp_path / "run")
        first.append(logger is not None)
        if fabric.is_global_zero:
            assert made["Logger"][0] == (run, tmp_path / "run", "kept")
            assert training.state.wandb_id == "new"
    assert first == [True, False]


def test_probing_logs_its_numbers_curves_and_pictures_to_the_run_that_trained(
    tmp_path, monkeypatch
):
    class Log(list):
        data = "birds"

        def __getattr__(self, name):
            return lambda *given: self.append((name, *given))

    class Curved(Probe):
        name, columns, across = "curved", ("c",), "K"

        def cells(self, numbers):
            return [str(numbers["c"])]

        def headline(self, numbers):
            return {"c": numbers["c"]}

        def curves(self, numbers):
            return {"one": [(1, 2.0), (2, 3.0)], "two": [(1, 4.0)]}

    log, held = Log(), object.__new__(session.Session)
    run = written(tmp_path / "run", curved={"c": 5})
    held.path, held.folder = run / "last.ckpt", run / "probe"
    held.report = json.loads((run / "probe/probe.json").read_text())
    held.pictures = {"infonce": run / "probe/infonce.png"}
    held.frozen = SimpleNamespace(run="probed", trained="trained", wandb_id="id", entity="team")
    attached = spy(monkeypatch, session.logger, "attach", lambda *_: log)
    held.log({"curved": Curved(), "missing": Curved()})
    assert list(attached[0].values()) == ["probed", "trained", run, "id", "team"]
    assert log == [
        ("table", "probe/birds", ["checkpoint", "method", "data", "c", "c (missing)"],
         [["run", "SimCLR", "sprites", "5", "–"]]),
        ("summary", {"probe/birds/c": 5, "probe/birds/step": 3}),
        ("table", "probe/birds/curved/points", ["curve", "K", "value"],
         [["one", 1, 2.0], ["one", 2, 3.0], ["two", 1, 4.0]]),
        ("lines", "probe/birds/curved", "K", {"one": [(1, 2.0), (2, 3.0)], "two": [(1, 4.0)]}),
        ("pictures", {"probe/birds/infonce": run / "probe/infonce.png"}, 3),
        ("artifact", "run-probe-birds", "report",
         [run / "probe/probe.json", run / "probe/infonce.png"]),
        ("close",),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words", "inside", "outside"),
    [
        (calibrate.arguments, ["--pairs"], ["50"], ["49"]),
        (calibrate.arguments, ["--estimator-seed"], ["0", str(2**63 - 1)], ["-1", str(2**63)]),
        (compress.arguments, ["run", "test", "-o", "a.tb", "--block"], ["1", "65536"], ["65537"]),
        (compress.arguments, ["run", "test", "-o", "a.tb", "--images"], ["1"], ["0"]),
        (compress.arguments, ["run", "test", "-o", "a.tb", "--rows"], ["1"], ["0"]),
        (decompress.arguments, ["run", "a.tb", "-o", "a", "--rows"], ["1"], ["0"]),
        (decompress.arguments, ["run", "a.tb", "-o", "a", "--only"], ["0:1"], ["1:1", "2:1"]),
        (image_truth.arguments, ["--pairs"], ["100,1000000"], ["99", "1000001"]),
        (captions_truth.arguments, ["--tell"], ["1,0.001"], ["1.001", "0"]),
        (report.arguments, ["run", "--title"], ["x" * 200], ["x" * 201]),
        (probe.arguments, ["run", "--size"], ["1", "4096"], ["0", "4097"]),
        (probe.arguments, ["run", "--crop"], ["0.1", "2"], ["0.09", "2.01"]),
        (rate_distortion.arguments, ["linear_vae", "--betas"], ["1e-9"], ["0", "inf", "1,1"]),
    ],
)
def test_the_limits_of_an_option_are_allowed_and_the_next_values_are_not(
    arguments, words, inside, outside, capsys
):
    for word in inside:
        arguments([*words, word])
    for word in outside:
        with pytest.raises((UserError, SystemExit)):
            arguments([*words, word])


def test_the_pointwise_information_of_a_peers_task_is_that_of_its_density():
    """Correlated normals, a Student distribution in its Gaussian limit, and uniform noise."""
    random, r = np.random.default_rng(0), 0.75
    x = random.normal(size=(40, 1))
    y = r * x + math.sqrt(1 - r * r) * random.normal(size=(40, 1))
    covariance = [[1, r], [r, 1]]
    expected = -0.5 * math.log(1 - r * r) - 0.5 * (
        (x**2 - 2 * r * x * y + y**2) / (1 - r * r) - x**2 - y**2
    )

    class BivariateNormal:
        _covariance = covariance

    class SplitStudentT:
        _dispersion, df = covariance, 1e9

    class AdditiveUniformSampler:
        epsilon = 0.25

    for sampler in (BivariateNormal(), SplitStudentT()):
        assert benchmark_mi._pointwise(sampler, x, y) == pytest.approx(expected[:, 0], abs=1e-5)
    inner = np.array([[0.1], [0.5], [0.95]])
    found = benchmark_mi._pointwise(AdditiveUniformSampler(), inner, inner)
    assert found == pytest.approx(-np.log([0.35, 0.5, 0.3]))
