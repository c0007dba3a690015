"""What the logger passes on to W&B and to the local files; a list stands for W&B's run."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

import core.run.logger as module
from core.data.sprites import SpritesConfig
from core.run import config
from core.run.config import DataConfig, RunConfig, WandbConfig
from core.run.logger import Logger, attach, data_name


class Run:
    """W&B's run: notes what it is told."""

    def __init__(self):
        self.logs, self.artifacts, self.ended = [], [], 0
        self.summary = {}

    def log(self, values):
        self.logs.append(values)

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log_artifact(self, made):
        self.artifacts.append(made)

    def finish(self):
        self.ended += 1


@pytest.fixture
def run(monkeypatch):
    told = Run()
    monkeypatch.setattr(Logger, "_start", lambda self: told)
    for name in (*module.VARIABLES.values(), "WANDB_MODE", "WANDB_RUN_ID", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    return told


def config_of(**wandb):
    asked = WandbConfig(**{"mode": "offline"} | wandb)
    model = SpritesConfig()  # any section
    return RunConfig(method="x", folder="x", model=model, data=DataConfig(), wandb=asked)


class Local(list):
    def __bool__(self):
        return True

    def metrics(self, *given):
        self.append(given)

    pictures = metrics

    def close(self):
        self.append("closed")


def test_each_number_has_its_step_and_an_unchanged_picture_is_logged_once(run, tmp_path):
    logger = Logger(config_of(), tmp_path)
    logger._local = Local()
    paths = {name: tmp_path / f"{name}.png" for name in ("a", "b")}
    shades = {}
    for step, (a, b) in enumerate(((1, 2), (1, 2), (1, 3), (4, 3)), 5):
        for name, shade in zip(paths, (a, b), strict=True):
            Image.new("L", (2, 2), shade).save(paths[name])
        logger.metrics({"loss": 0.5}, step)
        logger.pictures(paths, step)
        shades[step] = (a, b)
    logger.summary({"best": 3})
    logger.table("t", ["x", "y"], [[1, 2], [3, 4]])
    logger.lines("empty", "K", {})
    logger.lines("curves", "K", {"one": [(1, 2.0), (2, 3.0)], "two": [(1, 4.0)]})
    logger.close()
    assert run.ended == 1 and run.summary == {"best": 3}
    assert [log["step"] for log in run.logs if "loss" in log] == [5, 6, 7, 8]
    pictures = [log for log in run.logs if "loss" not in log and "step" in log]
    assert [(log["step"], sorted(log.keys() - {"step"})) for log in pictures] == [
        (5, ["a", "b"]), (7, ["b"]), (8, ["a"]),
    ]  # fmt: skip
    shown = [log["b"].image.getpixel((0, 0)) for log in pictures if "b" in log]
    assert shown == [2, 3]  # of the moment, not of the file that was replaced later
    (table,) = (log["t"] for log in run.logs if "t" in log)
    assert (table.columns, table.data) == (["x", "y"], [[1, 2], [3, 4]])
    assert not any("empty" in log for log in run.logs) and any("curves" in log for log in run.logs)
    local = [given for given in logger._local if given != "closed"]
    assert [(sorted(given[0]), given[1]) for given in local] == [
        (["loss"], 5), (["a", "b"], 5), (["loss"], 6), ([], 6),
        (["loss"], 7), (["b"], 7), (["loss"], 8), (["a"], 8),
    ]  # fmt: skip
    assert logger._local[-1] == "closed"


def test_artifacts_hold_the_files_that_exist_if_they_were_asked_for(run, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    files = [tmp_path / name for name in ("a", "b", "missing")]
    for artifacts in (True, False):
        logger = Logger(config_of(artifacts=artifacts), tmp_path, local=False)
        logger.artifact("my run/é", "model", files)
        logger.artifact("none", "model", files[2:])
        logger.close()
    (made,) = run.artifacts
    assert (made.name, made.type) == ("my-run--", "model")
    assert set(made.manifest.entries) == {"a", "b"}


def test_an_id_of_the_checkpoint_comes_before_that_of_the_environment(run, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "outer")
    ids = [
        Logger(config_of(mode="disabled"), tmp_path, word, local=False).id for word in ("in", "")
    ]
    assert ids == ["in", "outer"]
    monkeypatch.delenv("WANDB_RUN_ID")
    drawn = {Logger(config_of(mode="disabled"), tmp_path, local=False).id for _ in range(2)}
    assert len(drawn) == 2 and all(len(one) == 8 for one in drawn)


def test_what_the_config_leaves_open_has_a_default_unless_the_environment_decides(
    run, tmp_path, monkeypatch
):
    place = tmp_path / "mine"
    asked = config_of(mode="disabled", group="g", tags="a, b")
    options = Logger(asked, place, "id", local=False)._options
    assert options == {
        "project": "twobounds", "group": "g", "name": "mine", "tags": ["a", "b"],
        "dir": str(place), "id": "id", "resume": "allow", "config": config.to_dict(asked),
    }  # fmt: skip
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_DIR"):
        monkeypatch.setenv(name, "elsewhere")
    left = Logger(asked, place, "id", local=False)._options
    assert options.keys() - left.keys() == {"project", "name", "dir"}
    own = config_of(mode="disabled", project="p", name="n", entity="e", notes="m")
    named = Logger(own, place, "id", local=False)._options
    assert [named[key] for key in ("project", "name", "entity", "notes")] == list("pnem")


@pytest.mark.parametrize("entity, own, mode, said", [
    ("team", "", "offline", True), ("team", "mine", "offline", False),
    ("", "", "offline", False), ("team", "", "disabled", False),
])  # fmt: skip
def test_later_numbers_join_the_run_that_trained_with_the_name_of_their_own_data(
    entity, own, mode, said, run, tmp_path, capsys
):
    trained = replace(config_of(project="of the training", mode="online"), seed=5)
    other = replace(config_of(mode=mode, entity=own, project="of the user"), seed=6)
    other.data = DataConfig(name="folder", root=str(tmp_path / "birds"))
    logger = attach(other, trained, tmp_path, "abc", entity)
    logger.close()
    assert (logger.id, logger.data, logger.mode) == ("abc", "folder-birds", mode)
    assert logger._options["config"]["seed"] == 5  # that of the training
    assert logger._options["project"] == "of the user" and logger._local is None
    assert ("names the entity 'team'" in capsys.readouterr().err) == said
    assert data_name(trained) == "sprites"


def test_only_a_server_has_a_time_limit_at_the_start(monkeypatch, tmp_path, capsys):
    import wandb

    asked = []

    def init(mode, settings, **options):
        asked.append((mode, settings.init_timeout, settings.finish_timeout, options["id"]))
        return SimpleNamespace(url="https://x/y", dir=str(tmp_path / "files"))

    monkeypatch.setattr(wandb, "init", init)
    logger = Logger(config_of(mode="disabled"), tmp_path, "id", local=False)
    logger._init("online")
    logger._init("offline")
    default = wandb.Settings().init_timeout
    assert asked == [("online", module.PATIENCE, module.PATIENCE, "id"),
                     ("offline", default, module.PATIENCE, "id")]  # fmt: skip
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["wandb: https://x/y", f"wandb: offline; send it with: wandb sync {tmp_path}"]
