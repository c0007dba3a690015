"""Count the operators that a function starts on a device. On a GPU, Python must launch a kernel for
each operator, and a small operator costs as much time as a large one.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# they only make views of memory, and start no kernel
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "detach", "_unsafe_view", "resize_"}


class Launches(TorchDispatchMode):
    """Operators by name, without views and allocations. A backward pass inside counts, too."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name.split("::")[1]
        if not func.is_view and name not in FREE:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def launches(function: Callable[..., Any], *given: Any) -> Counter[str]:
    """The operators that one call starts."""
    with Launches() as mode:
        function(*given)
    return mode.found
