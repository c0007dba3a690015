"""A check of the first images of a user's own data set. The batches of such a set may differ from
what the set declares. Without the check, the error would appear in the model, far from its cause,
or training would use wrong values.
"""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from core.batch import Batch
from core.data.source import Sampler, Source, eval_sampler
from core.errors import UserError, shown


@contextmanager
def said(name: str, split: str, kind: type[Source]) -> Iterator[None]:
    """An error of the user's class `kind` as a `UserError` in one line. The line names the
    innermost frame of the traceback that lies in the folder of the class.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        home = Path(sys.modules[kind.__module__].__file__ or ".").parent
        inside = [frame for frame in frames if home in Path(frame.filename).parents]
        last = (inside or frames)[-1]
        raise UserError(
            f"data.name: {name} ({split}) raised {type(error).__name__}: {shown(str(error))}"
            f" ({Path(last.filename).name}, line {last.lineno}); mend the class, or change"
            " data.options"
        ) from error


def guard(source: Source) -> None:
    """From now on, report errors of `batches` as `said` does, also in training and in probes."""
    plain = source.batches

    def batches(order: Sampler, views: int) -> Iterator[Batch]:
        with said(source.name, source.split, type(source)):
            yield from plain(order, views)

    source.batches = batches  # type: ignore[method-assign]


def check(source: Source) -> None:
    """`UserError` if two views of at most two images do not have the form of `core.batch.Batch`."""
    for key in ("shape", "factors"):
        if not hasattr(source, key):
            raise UserError(f"data.name: {source.name} has no `{key}`")
    if not len(source):
        return
    batch = next(iter(source.batches(eval_sampler(len(source), source.seed, 2, most=2), 2)))
    n = len(batch.index)
    if len(batch.views) != 2:
        raise _wrong(source, f"{len(batch.views)} views instead of 2")
    for view in batch.views:
        if tuple(view.shape) != (n, *source.shape):
            wanted = f"but its `shape` asks for {(n, *source.shape)}"
            raise _wrong(source, f"views of shape {tuple(view.shape)}, {wanted}")
        if not _is_image(view):
            raise _wrong(source, "views that are neither uint8 nor floats in [0, 1]")
    if tuple(batch.label.shape) != (n, len(source.factors)):
        wanted = f"but its `factors` ask for {(n, len(source.factors))}"
        raise _wrong(source, f"labels of shape {tuple(batch.label.shape)}, {wanted}")
    for (name, classes), column in zip(source.factors.items(), batch.label.T, strict=True):
        if column.is_floating_point() or not (column.min() >= 0 and column.max() < classes):
            raise _wrong(
                source, f"labels {column.tolist()} of {name}; they must be 0 to {classes - 1}"
            )


def _is_image(view: Tensor) -> bool:
    if view.is_floating_point():
        return bool(view.min() >= 0 and view.max() <= 1)
    return str(view.dtype) == "torch.uint8"


def _wrong(source: Source, what: str) -> UserError:
    return UserError(f"data.name: {source.name} ({source.split}) makes {what}")
