"""One-line explanations of errors from a network, torch or the system, with the key to change."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from core.errors import GONE, UserError
from core.run.config import RunConfig
from core.trust import ROOMS, package_of

# parts of errors about memory
NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "ALLOC_FAILED")
ONE_IMAGE = "Expected more than 1 value per channel"  # torch's batch norm for a single image


@contextmanager
def in_one_line(
    run: RunConfig, shape: tuple[int, int, int], world: int, what: str
) -> Iterator[None]:
    """Within this context, any error becomes a `UserError` that names the key to change, or the
    place of the error. `what` is the action in words; `shape` is (C, H, W) of the images; `world`
    is the number of processes.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if any(words in str(error) for words in GONE):
            raise  # another process has the useful error
        raise UserError(_explanation(error, run, shape, world, what)) from error


def _explanation(
    error: Exception, run: RunConfig, shape: tuple[int, int, int], world: int, what: str
) -> str:
    size, micro = run.optim.batch_size, run.optim.micro_batch
    said = " ".join(next(iter(str(error).splitlines()), "").split())[:300]
    said = f"{type(error).__name__}{f': {said}' if said else ''}"
    if "deterministic" in str(error) and torch.are_deterministic_algorithms_enabled():
        return (
            f"trainer.deterministic: {what} has an operation without a deterministic form; set it"
            f" to false, or use another network ({said})"
        )
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
        return (
            f"optim.batch_size: {what} with {size // world} images per process needs more memory"
            " than there is; lower it, use a smaller model, or encode fewer images at a time with"
            f" optim.micro_batch (now {micro}) ({said})"
        )
    if ONE_IMAGE in str(error):
        of = f"micro batches of {micro}" if micro else f"{world} processes"
        return (
            f"optim.{'micro_batch' if micro else 'batch_size'}: batch norm needs 2 or more images"
            f" at a time, but with {size // world} images per process in {of}, one batch holds a"
            " single image; choose another number"
        )
    own = "" if package_of(run.method) in ROOMS else f", or correct the code of {run.method}"
    compiled = "trainer.compile, " if run.trainer.compile else ""
    return (
        f"model: {what} of {run.method} fails for images of {'x'.join(map(str, shape))}; change"
        f" {compiled}data.size or the keys of model{own} ({said}, in {_place(error)})"
    )


def _place(error: Exception) -> str:
    """The innermost frame outside of torch."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((f for f in reversed(frames) if "/torch/" not in f.filename), frames[-1])
    return f"{'/'.join(Path(frame.filename).parts[-2:])}, line {frame.lineno}"
