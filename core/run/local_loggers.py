"""Metrics as CSV and for TensorBoard, by Lightning Fabric's loggers, in the run's folder."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.errors import UserError
from core.run.trainer_config import TrainerConfig


def require(trainer: TrainerConfig) -> None:
    """`UserError` if a package that a logger needs is not installed."""
    known = any(importlib.util.find_spec(name) for name in ("tensorboard", "tensorboardX"))
    if trainer.tensorboard and not known:
        raise UserError(
            "trainer.tensorboard: needs a package that is not installed; pip install tensorboard,"
            " or set it to false"
        )


class LocalLoggers:
    """The loggers that `trainer.csv` and `trainer.tensorboard` ask for.

    Each start of a run writes its own csv/version_N or tensorboard/version_N, so that a resumed run
    overwrites nothing.
    """

    def __init__(self, trainer: TrainerConfig, folder: Path):
        from lightning_fabric.loggers import CSVLogger, TensorBoardLogger

        self._loggers: list[Any] = []
        self._board: Any = None
        if trainer.csv:
            self._loggers.append(CSVLogger(folder, name="csv", flush_logs_every_n_steps=1))
        if trainer.tensorboard:
            self._board = TensorBoardLogger(folder, name="tensorboard")
            self._loggers.append(self._board)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Write named numbers at a step."""
        for logger in self._loggers:
            logger.log_metrics(values, step)

    def pictures(self, paths: dict[str, Path], step: int) -> None:
        """Write PNG files by name at a step."""
        for name, path in paths.items() if self._board else ():
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self._board.experiment.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        for logger in self._loggers:
            logger.finalize("success")
