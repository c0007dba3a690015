"""A check of the first images of a data set of the user's own. A set whose batches are not what it
says would otherwise fail in the model, far from its cause, or train on wrong values.
"""

from torch import Tensor

from core.data.source import Source, eval_sampler
from core.errors import UserError


def check(source: Source) -> None:
    """`UserError` where two views of at most two images are not what `core.batch.Batch` says."""
    for key in ("shape", "factors"):
        if not hasattr(source, key):
            raise UserError(f"data.name: {source.name} has no `{key}`")
    if not len(source):
        return
    batch = next(iter(source.batches(eval_sampler(len(source), source.seed, 2, most=2), 2)))
    n = len(batch.index)
    if len(batch.views) != 2:
        raise _wrong(source, f"{len(batch.views)} views, where 2 were asked for")
    for view in batch.views:
        if tuple(view.shape) != (n, *source.shape):
            wanted = f"{(n, *source.shape)} by its `shape`"
            raise _wrong(source, f"views of shape {tuple(view.shape)}, where it is {wanted}")
        if not _is_image(view):
            raise _wrong(source, "views that are neither uint8 nor floats in [0, 1]")
    if tuple(batch.label.shape) != (n, len(source.factors)):
        wanted = f"{(n, len(source.factors))} by its `factors`"
        raise _wrong(source, f"labels of shape {tuple(batch.label.shape)}, where it is {wanted}")
    for (name, classes), column in zip(source.factors.items(), batch.label.T, strict=True):
        if column.is_floating_point() or not (column.min() >= 0 and column.max() < classes):
            raise _wrong(
                source, f"labels {column.tolist()} of {name}, which are 0 to {classes - 1}"
            )


def _is_image(view: Tensor) -> bool:
    if view.is_floating_point():
        return bool(view.min() >= 0 and view.max() <= 1)
    return str(view.dtype) == "torch.uint8"


def _wrong(source: Source, what: str) -> UserError:
    return UserError(f"data.name: {source.name} ({source.split}) makes {what}")
