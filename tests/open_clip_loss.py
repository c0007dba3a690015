"""open_clip's file of losses as a test oracle, without the imports of the whole package."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def open_clip_loss() -> ModuleType:
    """The module open_clip.loss; skips the test if open-clip-torch is not installed."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        pytest.skip("open-clip-torch is not installed (pip install --no-deps open-clip-torch)")
    place = Path(package.origin).with_name("loss.py")
    spec = importlib.util.spec_from_file_location("open_clip_loss", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
