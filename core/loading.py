"""Load a trained method from its file."""

from pathlib import Path

import torch

from core.run import checkpoint
from core.run.checkpoint import Loaded
from core.run.folder import RunFolder


def load(path: str | Path, device: torch.device | str = "cpu") -> Loaded:
    """(method, run, step, digest) of a checkpoint, or of a run folder's last.ckpt.

    The method is frozen and in evaluation mode: `method.encode(x)` takes images [B, C, H, W], uint8
    or in [0, 1], and returns features [B, D] and, if the method has them, codes. `run` is the
    config of the training, `step` its number of steps, and `digest` the SHA-256 of the file in hex.
    No code of the file is run. Raises `UserError`.
    """
    path = Path(path)
    return checkpoint.load_method(RunFolder(path).last if path.is_dir() else path, device)
