"""Make torchvision importable beside a CPU build of torch, in any order of imports.

torchvision's wheels hold operators for CUDA builds of torch. Beside a CPU build their library does
not load, and `import torchvision` fails when it registers fake kernels for these operators. Then
timm, lightly, torchmetrics and pytorch-lightning, which import torchvision, fail, too. Declaring
the two schemas is enough, because nothing here calls the operators.

`core/__init__.py` installs a finder that acts just before torchvision's code runs. If torchvision
is already imported, it works, and nothing is done.
"""

import ctypes
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_library: Any = None  # a torch.library.Library; the definitions exist as long as this object


class Finder:
    """Finds torchvision with the other finders, and declares its operators before its code runs.

    Searching alone (`importlib.util.find_spec`) imports nothing.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            if isinstance(finder, Finder) or find is None:
                continue
            if (spec := find(name, path, target)) is not None:
                _declare_before(spec)
                return spec
        return None


def declare_when_imported() -> None:
    """Install the finder once, unless torchvision is already imported."""
    if "torchvision" not in sys.modules and not any(isinstance(f, Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, Finder())


def _declare_before(spec: ModuleSpec) -> None:
    """Make the spec's loader declare the operators before it runs the module."""
    loader: Any = spec.loader
    execute = getattr(loader, "exec_module", None)
    if execute is None:  # a namespace package, such as an empty folder, has no code
        return

    def exec_module(module: ModuleType) -> None:
        _declare_if_missing(spec.submodule_search_locations or [])
        execute(module)

    loader.exec_module = exec_module


def _declare_if_missing(folders: Sequence[str]) -> None:
    """Define `torchvision::nms` and `torchvision::qnms` if torchvision's library does not load."""
    global _library
    import torch

    if _library is None and not _compiled_library_loads(folders):
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in SCHEMAS:
            if not hasattr(torch.ops.torchvision, schema.split("(")[0]):
                _library.define(schema)


def _compiled_library_loads(folders: Sequence[str]) -> bool:
    for library in sorted(path for folder in folders for path in Path(folder).glob("_C*.so")):
        try:
            ctypes.CDLL(str(library))
            return True
        except OSError:
            return False
    return False
