"""What tests share: one thread per process, and small batches."""

import core  # noqa: F401
from core.batch import Batch
from core.randomness import KeyedRNG

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_wandb_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture
def make_batch():
    """A batch of random uint8 images with that many views."""

    def make(
        size: int = 8, views: int = 2, shape: tuple[int, int, int] = (3, 32, 32), step: int = 0
    ) -> Batch:
        rng = KeyedRNG(0, step)
        images = tuple(
            rng.integers(f"image{v}", 256, size, *shape).to(torch.uint8) for v in range(views)
        )
        return Batch(images, torch.zeros(size, 1, dtype=torch.long), torch.arange(size), rng)

    return make
