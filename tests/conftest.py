"""Settings and fixtures of all tests: one thread per process, one process per core, the CPU."""

from __future__ import annotations

import gc
import os
import shutil
import tarfile
import tempfile
from multiprocessing.util import Finalize

# read when torch is imported, here and in processes that tests start
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# What libraries leave behind in processes that are killed, and compiled code, go into a folder that
# is removed at the end. pytest's own folders stay where they are, since failed tests keep theirs.
if "PYTEST_XDIST_WORKER" not in os.environ:  # its workers inherit these variables
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="twobounds-")
    # after multiprocessing has removed its own folder in it, whose priority is -100
    Finalize(None, shutil.rmtree, (tempfile.tempdir, True), exitpriority=-200)

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from core.batch import Batch

ROOT = Path(__file__).parents[1]
# The slowest files, slowest first: a process runs whole files, and a slow file at the end would
# leave the other cores idle.
LONGEST = (
    "test_world_sizes.py",
    "test_faults.py",
    "test_estimate.py",
    "test_training.py",
    "test_views.py",
    "test_rate_head.py",
    "test_readme.py",
)
MOST_PROCESSES = 8  # of about 1 GiB each


def pytest_configure(config: pytest.Config) -> None:
    """No test may fail because a machine is slow. The process that only distributes tests to
    others imports neither these libraries nor torch, which takes seconds.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ and config.getoption("dist", "no") != "no":
        return
    import hypothesis

    hypothesis.settings.register_profile(
        "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """`-n auto`: one process per core; one process if files are named, to save the imports."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    if config.args and all(".py" in word for word in config.args):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, MOST_PROCESSES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(Path(item.path).name, len(LONGEST)))


def pytest_collection_finish() -> None:
    """Keep the objects that the imports have made out of garbage collection. They stay to the end,
    and to look through them takes a tenth of a second each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_wandb_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture(scope="session")
def data_places() -> list[Path]:
    """The folders in which real data sets may lie."""
    named = os.environ.get("TWOBOUNDS_DATA")
    return [Path(named)] if named else [top / "shared" / "data" for top in (ROOT, ROOT.parent)]


@pytest.fixture(scope="session")
def mnist_root(data_places: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the original MNIST/raw, unpacked if necessary; skips the test without it."""
    for place in data_places:
        if (place / "MNIST" / "raw").is_dir():
            return place
        if (packed := place / "mnist.tar.gz").is_file():
            folder = tmp_path_factory.mktemp("mnist")
            with tarfile.open(packed) as file:
                # 3.11.3 and older have no filters
                safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                file.extractall(folder, **safe)
            return folder
    pytest.skip(f"no MNIST/raw, no mnist.tar.gz in {data_places}; TWOBOUNDS_DATA names a folder")


@pytest.fixture
def make_batch():
    """A batch of random uint8 images with `views` views."""
    import torch

    from core.batch import Batch
    from core.randomness import KeyedRNG

    def make(
        size: int = 8, views: int = 2, shape: tuple[int, int, int] = (3, 32, 32), step: int = 0
    ) -> Batch:
        rng = KeyedRNG(0, step)
        images = tuple(
            rng.integers(f"image{v}", 256, size, *shape).to(torch.uint8) for v in range(views)
        )
        return Batch(images, torch.zeros(size, 1, dtype=torch.long), torch.arange(size), rng)

    return make
