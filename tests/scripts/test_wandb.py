"""A run continues if W&B's server refuses, never answers, or stops answering later. The log is one
W&B run whose steps increase.
"""

import re
import time

import pytest
import wandb

from core.run import checkpoint, config
from core.run.folder import RunFolder
from core.run.logger import Logger
from core.run.optim import build_optimizer
from scripts.benches.wandb_server import Server
from tests.front_door import ROOT

LONG = 1800.0  # seconds: longer than anything that ends takes on the slowest machine


@pytest.fixture
def run(tmp_path) -> tuple[RunFolder, checkpoint.State]:
    """A folder and a fresh state of a small SimCLR."""
    overrides = [f"folder={tmp_path / 'run'}", "model.hidden=16", "model.projection=8"]
    settings = config.read(ROOT / "configs/simclr_sprites.yaml", overrides)
    method = checkpoint.build_method(settings, (3, 32, 32))
    folder = RunFolder(settings.folder)
    folder.create(settings)
    return folder, checkpoint.State(settings, method, build_optimizer(method, settings.optim))


@pytest.fixture(scope="module")
def wandb_seconds(tmp_path_factory) -> float:
    """The seconds that W&B takes now on this machine for a run without a server."""
    wandb.teardown()
    began = time.monotonic()
    wandb.init(mode="offline", dir=tmp_path_factory.mktemp("wandb")).finish()
    wandb.teardown()
    return time.monotonic() - began


@pytest.fixture
def wandb_online(run, wandb_seconds, monkeypatch):
    """A run that logs online to `WANDB_BASE_URL`, with the shortest time limit in which W&B can
    start; W&B's own process is a new one.
    """
    monkeypatch.setattr("core.run.logger.PATIENCE", max(6, round(4 * wandb_seconds)))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    run[1].run.wandb.mode = "online"
    wandb.teardown()
    yield run
    wandb.teardown()


@pytest.mark.parametrize("server", ["refuses", "hangs"])
def test_a_server_that_does_not_answer_stops_nothing(server, wandb_online, monkeypatch, capfd):
    folder, state = wandb_online
    with Server("hangs") as hanging:
        monkeypatch.setenv(
            "WANDB_BASE_URL", hanging.url if server == "hangs" else "http://127.0.0.1:9"
        )
        first = Logger(state.run, folder.path)
        first.metrics({"loss": 1.0}, 1)
        first.close(patience=LONG)
        assert bool(hanging.asked) == (server == "hangs")
    assert "logging offline instead" in capfd.readouterr().err
    assert comes_to(lambda: logged_steps(folder, first.id), [1])


def test_a_server_that_falls_silent_later_stops_nothing(wandb_online, monkeypatch):
    folder, state = wandb_online
    with Server("hangs later") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        logger = Logger(state.run, folder.path)
        for step in (1, 2):
            logger.metrics({"loss": 1 / step}, step)
        logger.close(patience=LONG)
        assert server.begun
    assert comes_to(lambda: logged_steps(folder, logger.id, "run"), [1, 2])


def test_a_server_gets_a_resumed_run_as_one_run_whose_steps_increase(wandb_online, monkeypatch):
    folder, state = wandb_online
    with Server("answers") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        for steps in ((1, 2), (3, 4)):
            logger = Logger(state.run, folder.path, state.wandb_id)
            state.wandb_id = logger.id
            for step in steps:
                logger.metrics({"loss": 1 / step}, step)
            logger.close(patience=LONG)
        assert comes_to(lambda: server.steps, [1, 2, 3, 4])
        assert set(server.runs) == {state.wandb_id}


def comes_to(look, wanted):
    """Whether `look()` returns the wanted value in the end: W&B's own process may still be writing
    while ours continues.
    """
    until = time.monotonic() + LONG
    while (found := look()) != wanted and time.monotonic() < until:
        time.sleep(0.05)
    return found == wanted


def logged_steps(folder: RunFolder, run_id: str, life: str = "offline-run") -> list[int]:
    """The steps that W&B has on the disk, for each life of the run: its files contain keys and JSON
    values as text, in history and summary.
    """
    lives = sorted(folder.path.glob(f"wandb/{life}-*-{run_id}/run-{run_id}.wandb"))
    return [
        step
        for life in lives
        for step in dict.fromkeys(
            map(int, re.findall(rb"\x04step\x82\x01\x01(\d)", life.read_bytes()))
        )
    ]


def test_a_resumed_run_is_one_run_whose_steps_increase(run):
    folder, state = run
    state.run.wandb.mode = "offline"
    for steps in ((1, 2), (3, 4)):
        logger = Logger(state.run, folder.path, state.wandb_id)
        state.wandb_id = state.wandb_id or logger.id
        assert logger.id == state.wandb_id
        for step in steps:
            logger.metrics({"loss": 1 / step}, step)
        logger.close(patience=LONG)
        time.sleep(1.1)  # W&B names the folder of a life after the second of its start
    assert comes_to(lambda: logged_steps(folder, state.wandb_id), [1, 2, 3, 4])
