"""A limit on the memory that building a network takes, for sizes from an untrusted file."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


class OverBudget(Exception):
    """The network is larger than allowed."""


@contextmanager
def budget(most_bytes: int, most_modules: int) -> Iterator[None]:
    """In this context, `OverBudget` is raised if all new tensors, temporary ones included, would
    together take more than `most_bytes`, or if more than `most_modules` modules are made.
    """
    made = 0

    def count(*_: Any) -> None:
        nonlocal made
        made += 1
        if made > most_modules:
            raise OverBudget(f"more than {most_modules:,} modules")

    hook = register_module_module_registration_hook(count)
    try:
        with _Bytes(most_bytes):
            yield
    finally:
        hook.remove()


class _Bytes(TorchDispatchMode):
    """Runs each operation on shapes first, and on numbers only if the result fits."""

    def __init__(self, most: int):
        super().__init__()
        self.left = self.most = most

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here; True would import the compiler, which takes 1 s

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.left -= _new_bytes(func, args, kwargs)
        if self.left < 0:
            raise OverBudget(f"more than {self.most // 2**20:,} MiB")
        return func(*args, **kwargs)


def _new_bytes(func: Any, args: Any, kwargs: Any) -> int:
    """The bytes of an operation's new results, without views of its inputs. 0 if shapes alone do
    not determine the result; such results are at most as large as the input.
    """
    shapes: tuple[Any, dict[str, Any]] = tree_map_only(Tensor, _shape_of, (args, kwargs))
    given, options = shapes
    if "device" in options or not any(isinstance(leaf, Tensor) for leaf in tree_leaves(shapes)):
        options = options | {"device": torch.device("meta")}
    options.pop("generator", None)
    old = {
        leaf.untyped_storage()._cdata for leaf in tree_leaves(shapes) if isinstance(leaf, Tensor)
    }
    try:
        results = func(*given, **options)
    except OverBudget:
        raise
    except RuntimeError as error:  # torch refuses a size, or the operation needs numbers
        if "size" in str(error) and "overflow" in str(error):
            raise OverBudget("more than any memory has") from None
        return 0
    except (TypeError, NotImplementedError):
        return 0
    return sum(
        leaf.untyped_storage().nbytes()
        for leaf in tree_leaves(results)
        if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in old
    )


def _shape_of(value: Tensor) -> Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
