"""Let torchvision import beside a CPU build of torch.

torchvision's wheels hold operators that are compiled against CUDA builds of torch. Beside a CPU
build the shared library does not load, and `import torchvision` dies when it registers fake kernels
for operators that were never defined; timm, lightly, torchmetrics and pytorch-lightning die with
it. Declaring the two schemas is enough: nothing here calls the operators. `core/__init__.py` runs
this before anything else, so every room that imports `core` first is safe.
"""

import ctypes
import importlib.util
from pathlib import Path

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_library: torch.library.Library | None = None  # the definitions live as long as this object does


def declare_if_missing() -> None:
    """Define `torchvision::nms` and `torchvision::qnms` where torchvision's own library can not;
    otherwise do nothing.
    """
    global _library
    if _library is None and not _compiled_library_loads():
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in SCHEMAS:
            if not hasattr(torch.ops.torchvision, schema.split("(")[0]):
                _library.define(schema)


def _compiled_library_loads() -> bool:
    spec = importlib.util.find_spec("torchvision")  # finds the package without importing it
    folders = spec.submodule_search_locations if spec else None
    for library in sorted(Path(folders[0]).glob("_C*.so")) if folders else []:
        try:
            ctypes.CDLL(str(library))
            return True
        except OSError:
            return False
    return False
