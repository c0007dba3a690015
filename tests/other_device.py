"""A second device on a machine without one, as strict as a GPU: an operation that mixes its tensors
with those of the CPU is an error. The CPU does its computations.

Import it before anything calls `backward`, which fixes how many devices there are; so the tests of
`tests/on_other_device.py` run in a process of their own.

>>> with other_device() as device:
...     (torch.ones(2, device=device) + torch.ones(2).to(device)).cpu()
tensor([2., 2.])
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"
# reads an index, or writes a number, that lies on the CPU, as on a GPU
MAY_MIX = ("aten::index.", "aten::index_put", "aten::copy_", "aten::_to_copy", "aten::to.")


_setup_privateuseone_for_python_backend(NAME)


class There(Tensor):
    """A tensor of the other device; `inner` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "There":
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
            requires_grad=inner.requires_grad,
        )
        made.inner = inner.detach()
        return made

    def __repr__(self, **more: Any) -> str:
        return f"There({self.inner})"

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


class _Place(TorchDispatchMode):
    """Makes tensors on the other device where it is asked for."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        there = any(isinstance(leaf, There) for leaf in _tensors((args, kwargs)))
        device = kwargs.get("device")
        asked = device is not None and torch.device(device).type == NAME
        return _run(op, args, kwargs) if there or asked else op(*args, **kwargs)


def _tensors(given: Any) -> Iterator[Tensor]:
    """The tensors of an operator's arguments, in a quarter of the time of torch's pytree."""
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, list | tuple):
        for part in given:
            yield from _tensors(part)
    elif isinstance(given, dict):
        yield from _tensors(tuple(given.values()))


def _run(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = list(_tensors((args, kwargs)))
    there = [leaf for leaf in leaves if isinstance(leaf, There)]
    name = op.name()
    here = [leaf for leaf in leaves if not isinstance(leaf, There)]
    written = op._schema.is_mutable and not name.startswith("aten::copy_")
    fixed = written or name.startswith("aten::index")  # the first tensor's place is the result's
    mixed = any(leaf.ndim for leaf in here) and not name.startswith(MAY_MIX)
    if there and (mixed or fixed and here and leaves[0] is here[0]):
        raise RuntimeError(f"{name} mixes tensors of {NAME} and of the CPU")
    device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    stays = device.type == NAME if device is not None else bool(there)
    if name.startswith("aten::copy_") or name.startswith("aten::index_put"):
        stays = isinstance(args[0], There)
    bare = tree_map(lambda leaf: leaf.inner if isinstance(leaf, There) else leaf, (args, kwargs))
    bare_args, bare_kwargs = bare
    if device is not None:
        bare_kwargs["device"] = torch.device("cpu")
    found = op(*bare_args, **bare_kwargs)
    if device is not None and not stays and there and found is there[0].inner:
        found = found.clone()
    if not stays:
        return found
    wrapped = tree_map(lambda leaf: There(leaf) if isinstance(leaf, Tensor) else leaf, found)
    return return_and_correct_aliasing(op, args, kwargs, wrapped)


@contextlib.contextmanager
def other_device() -> Iterator[torch.device]:
    """Inside, tensors can be made on and moved to the yielded device."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(...) moves what it made
    try:
        with _Place():
            yield torch.device(NAME, 0)
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
