"""What an offline W&B run of training and probing holds: names, summary, tables, plots, artifacts.
metrics.csv has the same metrics. `tests.wandb_file` reads W&B's file.
"""

import csv
import json
import re

import pytest

from core.run import config
from core.run.logger import Logger, data_name
from scripts import probe
from tests.in_process import call, train
from tests.wandb_file import complete, history, summary

ASKED = [
    "wandb.mode=offline",
    "wandb.project=mine",
    "wandb.entity=team",
    "wandb.group=several",
    "wandb.name=the first",
    "wandb.tags=a, b",
    "wandb.notes=said so",
    "wandb.artifacts=true",
]


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """The folder of a run, the records of its training and of its probing, and what was said."""
    run = tmp_path_factory.mktemp("wandb") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_MODE", raising=False)
        more = [
            "model.hidden=16",
            "optim.epochs=2",
            "data.sprites.train=128",
            "optim.batch_size=16",
        ]
        more += ["optim.batch_size=16", "trainer.csv=true", *ASKED]
        answer = train("simclr", run, *more)
        assert answer.code == 0, answer.err
        words = ["--probes", "linear,information", "--device", "cpu", "wandb.entity=team"]
        patch.setattr("probes.views.critic.CYCLES", (20, 20))
        probe.main([str(run), *words, "wandb.artifacts=true"])
    files = sorted(run.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    return run, *map(complete, files), answer


def named(found, kind):
    return [getattr(r, kind) for r in found if r.WhichOneof("record_type") == kind]


def test_the_run_has_the_names_that_were_asked_for(logged):
    _, trained, probed, answer = logged
    (first,), (second,) = named(trained, "run"), named(probed, "run")
    assert first.run_id == second.run_id
    for run in (first, second):
        assert (run.project, run.run_group, run.display_name) == ("mine", "several", "the first")
        assert list(run.tags) == ["a", "b"] and run.notes == "said so" and run.entity == "team"
    assert re.search(r"wandb: offline; send it with: wandb sync \S+/offline-run-\S+", answer.err)


def test_the_best_values_are_in_the_summary_under_names_with_the_data(logged):
    run, trained, _, _ = logged
    found = summary(trained)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if "val/knn" in line]
    best = max(validations, key=lambda line: line["val/knn"])
    assert found["best/sprites/knn"] == best["val/knn"] == max(v["val/knn"] for v in validations)
    assert found["best/sprites/step"] == best["step"]


def test_probe_results_are_summary_table_and_one_plot_and_no_charts_of_one_point(logged):
    run, _, probed, _ = logged
    report = json.loads((run / "probe/probe.json").read_text())
    found, lines = summary(probed), history(probed)
    assert found["probe/sprites/linear/top1"] == report["linear"]["top1"]
    bound = report["information"]["critics"]["common"]["sweep"][-1]["bound"]
    assert found["probe/sprites/infonce/common"] == bound
    logged_names = {name for line in lines for name in line if not name.startswith("_")}
    numbers = {
        name
        for line in lines
        for name, value in line.items()
        if isinstance(value, int | float) and not name.startswith("_")
    }
    assert numbers <= {"step"}, "a number with a single point has no chart"
    assert "probe/sprites" in logged_names and "probe/sprites/information/points" in logged_names
    assert any(name.startswith("probe/sprites/information") for name in logged_names)
    (points,) = (
        line["probe/sprites/information/points"]
        for line in lines
        if "probe/sprites/information/points" in line
    )
    rows = sum(len(c["sweep"]) for c in report["information"]["critics"].values())
    assert points["nrows"] == rows and points["ncols"] == 3


def test_a_picture_that_does_not_change_is_logged_once(logged):
    run, trained, probed, _ = logged
    held = [name for line in history(trained) for name in line if "views" in name]
    assert held.count("views") == 1
    shown = [name for line in history(probed) for name in line if name.endswith("infonce")]
    assert shown == ["probe/sprites/infonce"]


def test_checkpoints_and_the_report_are_artifacts(logged):
    _, trained, probed, _ = logged
    (model,), (report,) = (
        [a for a in named(found, "artifact") if a.type in ("model", "report")]
        for found in (trained, probed)
    )
    assert (model.type, model.name) == ("model", "run")
    held = {entry.path for entry in model.manifest.contents}
    assert held == {"last.ckpt", "best.ckpt", "config.yaml"}
    assert report.type == "report" and report.name == "run-probe-sprites"
    assert "probe.json" in {entry.path for entry in report.manifest.contents}


def test_the_metrics_are_also_a_csv_file(logged):
    run, _, _, _ = logged
    rows = list(csv.DictReader((run / "csv/version_0/metrics.csv").open()))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    found = {int(row["step"]): float(row["loss"]) for row in rows if row["loss"]}
    assert found == pytest.approx(losses)
    assert sum(bool(row["val/knn"]) for row in rows) == 2


def test_tensorboard_is_written_or_its_package_is_named(tmp_path):
    more = ["model.hidden=16", "optim.epochs=1", "trainer.tensorboard=true"]
    answer = train("simclr", tmp_path / "run", *more)
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        assert answer.code == 2 and "pip install tensorboard" in answer.err
        assert not (tmp_path / "run").exists()
        return
    assert answer.code == 0, answer.err
    events = EventAccumulator(str(tmp_path / "run/tensorboard/version_0")).Reload()
    assert {"loss", "val/knn"} <= set(events.Tags()["scalars"])
    assert "views" in events.Tags()["images"]


def options(monkeypatch, tmp_path, *words, **environment):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    run = config.read("simclr_sprites", ["wandb=disabled", *words])
    return Logger(run, tmp_path / "name", "id")._options


def test_the_environment_decides_what_the_config_leaves_open(tmp_path, monkeypatch):
    plain = options(monkeypatch, tmp_path)
    assert (plain["project"], plain["name"]) == ("twobounds", "name")
    assert not {"entity", "group", "tags", "notes"} & plain.keys()
    names = {"WANDB_PROJECT": "p", "WANDB_NAME": "n", "WANDB_DIR": str(tmp_path)}
    found = options(monkeypatch, tmp_path, **names)
    assert not {"project", "name", "dir"} & found.keys(), "W&B reads them itself"
    found = options(monkeypatch, tmp_path, "wandb.project=mine", **names)
    assert found["project"] == "mine", "the config is nearer than the environment"


def test_wandb_mode_is_short_for_the_section(tmp_path):
    for words in (["wandb=offline", "wandb.project=x"], ["wandb.project=x", "wandb=offline"]):
        found = config.read("simclr_sprites", words).wandb
        assert (found.mode, found.project) == ("offline", "x")
    text = "method: contrastive.simclr.SimCLR\nfolder: x\nwandb: online\n"
    (tmp_path / "mine.yaml").write_text(text)
    found = config.read(tmp_path / "mine.yaml", ["wandb.group=g"]).wandb
    assert (found.mode, found.group) == ("online", "g")
    held = {"method": "contrastive.simclr.SimCLR", "folder": "x"}
    asked = {"entity": "e", "artifacts": True}
    stranger = config.from_a_stranger({**held, "wandb": asked}, "x")
    assert not stranger.wandb.entity and not stranger.wandb.artifacts
    assert config.from_dict({**held, "wandb": "offline"}, "x").wandb.mode == "offline"


def test_the_name_of_a_folder_of_pictures_is_its_own(tmp_path):
    run = config.read("simclr_folder", [f"data.root={tmp_path / 'birds'}"])
    assert data_name(run) == "folder-birds"
    assert call("simclr_sprites", "wandb.mod=x").is_one_line
