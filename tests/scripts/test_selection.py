"""Label-free numbers and accuracy: the correlations against scipy, the command on probed runs, and
the study, in which nothing is trained or probed twice.
"""

import json
import math
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from scipy.stats import norm, spearmanr

from core.run.loop import Loop
from probes.report import selection as statistics
from scripts import pretrain, probe, selection
from scripts.selection_grid import Recipe, recipes
from tests.reports import call as call_main
from tests.reports import written

BEST = statistics.REFERENCE


def runs(n=12, data="sprites", seed=0, **numbers):
    random = np.random.default_rng(seed)
    linear = random.random(n)
    found = []
    for i in range(n):
        run = {"data": data, "linear": linear[i], "knn": linear[i] + 0.1 * random.random()}
        run |= {number.name: None for number in statistics.NUMBERS}
        run[BEST] = linear[i] + 0.5 * random.random()
        found.append(run | {key: of(linear[i], random) for key, of in numbers.items()})
    return found


def column(held, key):
    return np.array([run[key] for run in held])


def test_the_correlation_of_one_data_set_is_scipys_with_ties():
    held = runs(LiDAR=lambda x, random: round(3 * (x + random.random())))
    found = statistics.correlations(held, "LiDAR", "linear")
    expected = spearmanr(column(held, "LiDAR"), column(held, "linear")).statistic
    assert found["pooled"]["value"] == pytest.approx(expected)
    assert found["each"]["sprites"]["value"] == pytest.approx(expected)
    assert found["pooled"]["low"] < expected < found["pooled"]["high"]
    other = spearmanr(column(held, BEST), column(held, "linear")).statistic
    assert found["reference"] == pytest.approx(other)
    assert found["difference"]["value"] == pytest.approx(expected - other)


def test_a_number_that_follows_the_reference_differs_from_it_in_no_resample():
    held = [run | {"LiDAR": 2 * run[BEST]} for run in runs()]
    difference = statistics.correlations(held, "LiDAR", "linear")["difference"]
    assert difference == {"value": 0, "low": 0, "high": 0}


def test_pooling_does_not_see_differences_between_data_sets():
    """On each set the number says the opposite of the accuracy; over both at once it would agree,
    because one set has the larger values of both (Simpson's paradox).
    """
    first = runs(8, LiDAR=lambda x, random: -x)
    second = runs(8, "mnist", 1, LiDAR=lambda x, random: 100 - x)
    for run in second:
        run["linear"] += 10
    together = [*first, *second]
    naive = spearmanr(column(together, "LiDAR"), column(together, "linear")).statistic
    found = statistics.correlations(together, "LiDAR", "linear")
    assert naive > 0.4 and found["pooled"]["value"] == pytest.approx(-1)
    assert found["checkpoints"] == 16 and found["each"].keys() == {"sprites", "mnist"}
    # a data set with too few runs does not count
    few = statistics.correlations([*first, *second[:4]], "LiDAR", "linear")
    assert few["each"].keys() == {"sprites"} and few["checkpoints"] == 8


def test_what_is_the_same_for_all_or_known_for_few_has_no_correlation():
    held = runs(RankMe=lambda x, random: 3.0)
    assert statistics.correlations(held, "RankMe", "linear") is None
    assert statistics.correlations(held, "rate R", "linear") is None
    for run in held[:4]:
        run["rate R"] = run["linear"]
    assert statistics.correlations(held, "rate R", "linear") is None
    held[4]["rate R"] = held[4]["linear"]
    found = statistics.correlations(held, "rate R", "linear")
    assert found["checkpoints"] == 5 and found["pooled"]["value"] == pytest.approx(1)


def test_intervals_cover_the_true_correlation(monkeypatch):
    """Normal pairs with r = 0.7 have Spearman's correlation 6 / pi asin(r / 2)."""
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    truth, inside = 6 / math.pi * math.asin(0.35), 0
    for seed in range(60):
        held = runs(20, seed=seed)
        for run in held:
            normal = norm.ppf(min(max(run["linear"], 1e-9), 1 - 1e-9))
            noise = np.random.default_rng(abs(hash((seed, run["linear"]))) % 2**32).normal()
            run["LiDAR"] = 0.7 * normal + math.sqrt(1 - 0.49) * noise
        found = statistics.correlations(held, "LiDAR", "linear")["pooled"]
        inside += found["low"] <= truth <= found["high"]
    assert 50 <= inside <= 60


def probed(folder, place, top1, **more):
    """A report of a run whose RankMe follows its accuracy, and whose alignment is the opposite."""
    space = {"dimensions": 8, "effective_rank": 2 + 5 * top1, "uniformity": -1.0, "deviation": 1.0}
    space |= {"alignment": top1, "lidar": 3.0, "cluster_learnability": top1}
    space |= {"intrinsic_dimension": 9 * top1, "dead_dimensions": 0.0, "least_deviation": 0.5}
    each = {"top1": top1, "k": 20.0, "temperature": 0.07}
    more = {"knn": {"knn200": each, "knn20": each}, "geometry": {"features": space}} | more
    line = {"step": 3, "val/in_batch_bound": top1}
    made = written(folder / f"run{place}", top1=top1, key=f"k{place}", **more)
    (made / "metrics.jsonl").write_text(json.dumps({"step": 2}) + "\n" + json.dumps(line) + "\n")
    return made


call = partial(call_main, main=selection.main)


def test_probed_runs_of_the_users_own_give_table_and_picture(tmp_path, capsys):
    made = [probed(tmp_path / "a", i, top1) for i, top1 in enumerate((0.3, 0.5, 0.6, 0.8, 0.9))]
    made += [probed(tmp_path / "b", 0, 0.5, data="mnist", print_="e")]
    picture = tmp_path / "new" / "which.png"
    code, said, err = call(capsys, tmp_path / "a", made[-1], "--picture", picture)
    assert code == 0, err
    assert imread(picture).shape[0] > 400
    assert "5 checkpoints (5 on sprites)" in said and "mnist has only 1 run with" in said
    found = json.loads(picture.with_suffix(".json").read_text())
    rows = {row["name"]: row["linear"]["pooled"]["value"] for row in found["rows"]}
    assert rows["RankMe"] == rows["CLID"] == rows["val/in_batch_bound"] == pytest.approx(1)
    assert rows["−alignment"] == pytest.approx(-1) and rows[BEST] == pytest.approx(1)
    assert not {"LiDAR", "−uniformity", "rate R"} & rows.keys()  # the same for all, or absent
    # each part of CLID is standardised, so each has mean 0 and variance 1
    clid = np.array([run["CLID"] for run in found["runs"]])
    assert clid.mean() == pytest.approx(0) and clid.std() == pytest.approx(2)
    lines = picture.with_suffix(".md").read_text().splitlines()
    assert any(line.startswith("| RankMe | 5 | +1.00 [") for line in lines)
    assert any(line.startswith("| a/run0 | 30.0 | 30.0 |") for line in lines)


def test_a_copied_run_and_the_same_training_again_count_once(tmp_path, capsys):
    made = [probed(tmp_path, i, top1) for i, top1 in enumerate((0.3, 0.5, 0.6, 0.8, 0.9))]
    for place, copy in enumerate(made[:3]):
        shutil.copytree(copy, tmp_path / f"z{place}")
    (tmp_path / "z0" / "metrics.jsonl").unlink()
    picture = tmp_path / "which.png"
    alone, both = (
        json.loads(picture.with_suffix(".json").read_text())
        for words in (made, [tmp_path])
        if call(capsys, *words, "--picture", picture)[0] == 0
    )
    assert both["copies"] == ["z0", "z1", "z2"] and both["checkpoints"] == 5
    assert both["rows"] == alone["rows"]
    code, _, err = call(capsys, *made[:4], tmp_path / "z1")
    assert code == 2 and "got 4 on sprites; copies of others: z1" in err


def test_too_few_runs_and_runs_without_labels_are_refused_in_a_line(tmp_path, capsys):
    made = [probed(tmp_path, i, 0.1 * i + 0.2) for i in range(4)]
    for words, expected in (
        (made, "got 4 on sprites"),
        ([tmp_path / "none"], "no such file or folder"),
        ([*made, "--quick"], "--quick"),
        ([*made, "--root", "x"], "--root"),
        (["--quick", "--sets", "mnist"], "--sets"),
        (["--sets", "cifar"], "--sets: there is no 'cifar'"),
        ([*made, "--picture", tmp_path / "a.pdf"], "should end in .png"),
    ):
        code, said, err = call(capsys, *words)
        assert code == 2 and not said and len(err.strip().splitlines()) == 1 and expected in err
    for place in (4, 5):
        folder = probed(tmp_path, place, 0.5)
        path = folder / "probe" / "probe.json"
        held = json.loads(path.read_text())
        del held["linear"]
        path.write_text(json.dumps(held | {"absent": {"linear": "the images have no labels"}}))
    code, _, err = call(capsys, *made, *(tmp_path / f"run{i}" for i in (4, 5)))
    assert code == 2 and "without a linear probe: run4, run5" in err
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("text", ["[1]\n", "x", '{"step": 3, "val/in_batch_bound": NaN}\n', None])
def test_a_strange_metrics_file_has_no_bound(tmp_path, text):
    folder = probed(tmp_path, 0, 0.5)
    huge = '{"step": 3, "val/in_batch_bound": 1' + 400 * "0" + "}\n"
    for content in (text, huge):
        (folder / "metrics.jsonl").write_text(content or "")
        report = json.loads((folder / "probe" / "probe.json").read_text())
        (run,), _ = statistics._runs([report])
        assert run["val/in_batch_bound"] is None and run["linear"] == 0.5


@pytest.mark.parametrize("strange", ["x", [], {}, None, True, {"sweep": [1]}, 1e400])
def test_strange_parts_of_a_report_are_no_numbers(tmp_path, strange):
    report = json.loads((probed(tmp_path, 0, 0.5) / "probe" / "probe.json").read_text())
    critics = dict.fromkeys(("common", "native", "native, refitted scale"), strange)
    space = dict.fromkeys(report["geometry"]["features"], strange)
    report |= {"information": {"critics": critics}, "geometry": {"features": space}}
    report |= {"rate": strange, "identity": strange}
    (run,), _ = statistics._runs([report])
    assert run["linear"] == 0.5 and all(run[n.name] is None for n in statistics.NUMBERS[:5])
    assert run["RankMe"] is run["α-ReQ, −|α − 1|"] is run["rate R"] is None
    report |= {"linear": {"top1": strange}}
    assert statistics._runs([report]) == ([], ["run0"])


def test_the_study_varies_what_it_says():
    every = recipes(["sprites", "mnist"], Path("x"), False)
    assert len(every) == len({recipe.name for recipe in every}) == 40
    assert sum(recipe.name.startswith("mnist") for recipe in every) == 20
    for method in ("simclr", "moco", "vicreg", "beta_vae"):
        counted = [recipe for recipe in every if f"_{method}," in recipe.name]
        assert len(counted) >= 6
    quick = {recipe.name for recipe in recipes(["sprites"], Path("x"), True)}
    assert len(quick) == 8 and not quick & {recipe.name for recipe in every}
    views = [w for r in every for w in r.words if w.startswith("data.probe_augment")]
    assert set(views) == {"data.probe_augment=crop"}  # one quantity on MNIST


def test_a_killed_study_continues_and_does_nothing_twice(tmp_path, capsys, monkeypatch):
    small = ["data.sprites.train=64", "data.sprites.validation=64", "data.sprites.test=64"]
    small += ["optim.batch_size=32", "optim.epochs=2", "trainer.validate_every=1", "wandb=disabled"]
    small += ["optim.warmup_epochs=0", "model.hidden=16", "trainer.accelerator=cpu"]
    planned = [
        Recipe(f"t{i}", "simclr_sprites", [*small, f"optim.lr={2**-i}e-2"]) for i in range(1, 6)
    ]
    monkeypatch.setattr(selection, "recipes", lambda *_: planned)
    monkeypatch.setattr(selection, "PROBES", "linear,knn,geometry")
    monkeypatch.setattr("probes.labels.linear.STRENGTHS", (1e-2, 1e-1))
    trained, measured = [], []
    plain, validate = pretrain.main, Loop._validate
    monkeypatch.setattr(pretrain, "main", lambda words: (trained.append(words[-2]), plain(words)))
    looked = probe.main
    monkeypatch.setattr(probe, "main", lambda words: (measured.append(words[0]), looked(words))[1])

    def stopped(loop):
        validate(loop)
        if len(trained) == 2 and loop.state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Loop, "_validate", stopped)
    words = ["--sets", "sprites", "--out", tmp_path]
    assert call(capsys, *words)[0] == 75
    assert len(trained) == 2 and len(measured) == 1
    code, said, err = call(capsys, *words)
    assert code == 0, err
    assert len(trained) == 6 and len(measured) == 5 and f"{tmp_path / 't1'}: complete" in said
    assert "run 3 of 5: t3 · about" in said and (tmp_path / "selection.png").is_file()
    assert not (tmp_path / "t1" / "features").exists()
    (tmp_path / "t3" / "probe" / "probe.json").unlink()  # trained, but without a report
    assert call(capsys, *words)[0] == 0 and len(trained) == 6
    assert len(measured) == 6 and measured[5] == str(tmp_path / "t3")


def test_the_small_mnist_is_spread_over_the_official_one(tmp_path, mnist_root, monkeypatch, capsys):
    from torchvision.datasets import MNIST

    monkeypatch.setattr(selection, "SIZES", {"train": 30, "validation": 10, "test": 20})
    options = selection.arguments(["--root", str(mnist_root)])
    selection.small_mnist(options, tmp_path)
    for train, count in ((True, 40), (False, 20)):
        small, whole = (MNIST(root, train=train) for root in (tmp_path, mnist_root))
        assert len(small) == count and (small.data == whole.data[:: len(whole) // count]).all()
        assert (small.targets == whole.targets[:: len(whole) // count]).all()
    code, _, err = call(capsys, "--root", tmp_path / "none", "--out", tmp_path / "study")
    assert code == 2 and len(err.strip().splitlines()) == 1 and "--sets sprites" in err


def test_the_last_of_several_validations_of_a_step_counts(tmp_path):
    """A resumed run repeats steps, and its checkpoint is that of the repetition."""
    lines = [
        {"step": 4, "val/in_batch_bound": 1.0},
        {"step": 8, "val/in_batch_bound": 2.0},
        {"step": 4, "val/in_batch_bound": 3.0},
        {"step": 4, "loss": 1.0},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    report = {"checkpoint": str(tmp_path / "last.ckpt"), "step": 4}
    assert statistics.in_batch(report) == 3.0 and statistics.in_batch(report | {"step": 5}) is None
