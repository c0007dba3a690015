"""Parts of a training and of a probing are handed to each other, options are allowed up to their
limits, and a peer's tasks have their densities.
"""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from core.errors import UserError
from probes import session
from probes.labels.knn import online_knn
from probes.probe import Probe
from scripts import (
    benchmark_mi,
    calibrate,
    captions_truth,
    compress,
    decompress,
    image_truth,
    pretrain,
    probe,
    rate_distortion,
    report,
)  # fmt: skip
from tests.reports import written
from tests.spies import spy


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
