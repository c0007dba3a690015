"""Lightning Fabric's names, imported without torchmetrics.

Fabric asks for the version of torchmetrics by importing it, and torchmetrics imports torchvision
and matplotlib. This takes a second at each start, for a version number that Fabric itself never
uses.
"""

import importlib.metadata
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from lightning_utilities.core import imports as requirements
from packaging.version import Version

_by_import = requirements.compare_version


def _compare(
    package: str, op: Callable[[Any, Any], bool], version: str, use_base_version: bool = False
) -> bool:
    if package != "torchmetrics":
        return _by_import(package, op, version, use_base_version)
    try:
        return bool(op(Version(importlib.metadata.version(package)), Version(version)))
    except importlib.metadata.PackageNotFoundError:
        return False


with patch.object(requirements, "compare_version", _compare):
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision
    from lightning_fabric.strategies import DDPStrategy
    from lightning_fabric.utilities.exceptions import MisconfigurationException
    from lightning_fabric.wrappers import _FabricModule as FabricModule
    from lightning_fabric.wrappers import _FabricOptimizer as FabricOptimizer

__all__ = [
    "DDPStrategy",
    "Fabric",
    "FabricModule",
    "FabricOptimizer",
    "MisconfigurationException",
    "MixedPrecision",
]
