"""Importing a package is fast, and torchvision can be imported before or after our packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A torchvision that registers a fake kernel for its own operator, like the real one. If its shared
# library does not load and the operator is not declared, importing it fails.
TORCHVISION = """
import torch
imported = 1 + globals().get("imported", 0)
@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold):
    return dets
"""


def fresh(code: str, *paths: Path) -> str:
    """The output of a fresh interpreter."""
    told = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*paths, ROOT)))},
        check=False,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout.strip()


@pytest.fixture
def broken(tmp_path):
    """A folder with a torchvision whose compiled library does not load."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(TORCHVISION)
    (tmp_path / "torchvision" / "_C.so").write_bytes(b"no library")
    return tmp_path


@pytest.mark.parametrize(
    "module",
    ["core", "core.errors", "core.commands", "core.information", "contrastive", "vae", "probes"]
    + ["scripts", "configs", "probes.samples.estimators"],
)
def test_importing_a_package_imports_nothing_heavy(module):
    code = (
        f"import sys, {module}; print([m for m in ('torch', 'numpy', 'timm') if m in sys.modules])"
    )
    assert fresh(code) == "[]"


def test_threads_sleep_at_barriers_unless_the_user_says_otherwise():
    code = "import {}, os; print(os.environ['OMP_WAIT_POLICY'])"
    for package in ("core", "contrastive", "vae", "probes", "scripts"):
        assert fresh("import os; os.environ.pop('OMP_WAIT_POLICY', 0);" + code.format(package)) == (
            "passive"
        )
    assert fresh("import os; os.environ['OMP_WAIT_POLICY'] = 'active';" + code.format("core")) == (
        "active"
    )


@pytest.mark.parametrize("package", ["core", "contrastive", "vae", "probes", "scripts"])
def test_any_package_prepares_the_import_of_torchvision(package):
    """What it prepares is seen below, where torch is imported, too."""
    code = f"import {package}, sys; print(type(sys.meta_path[0]).__module__)"
    assert fresh(code) == "core.torchvision_operators"


# They take a second or more, and only some probes, backbones or kinds of data need them.
LATER = ("matplotlib", "scipy", "sklearn", "timm", "torchmetrics", "torchvision", "wandb")


def test_training_and_probing_start_without_libraries_that_others_need():
    """`probes.session` is what every call of `probe` imports; single probes need scikit-learn."""
    code = """
import sys
from scripts import pretrain
try:
    pretrain.main(["configs/of-this-name-is-none.yaml"])
except SystemExit as end:
    assert end.code == 2
few = [m for m in ("torch._dynamo", "torch.distributed.tensor", "lightning_fabric", *{later})
       if m in sys.modules]
import core.run.dry_run, core.run.loop, core.run.setup, core.run.validation
import contrastive.simclr, probes.labels.knn
trained = [m for m in {later} if m in sys.modules]
import probes.session
print(few, trained, [m for m in ("sklearn",) if m in sys.modules])
"""
    assert fresh(code.format(later=LATER)) == "[] [] []"


@pytest.mark.parametrize(
    "order",
    [
        "import torch, core, torchvision",
        "import torch; from core.errors import nearest; import torchvision",
    ]
    + ["import core, core.lazy, torch, torchvision", "import contrastive, torch, vae, torchvision"],
)
def test_torchvision_imports_in_any_order(order, broken):
    assert fresh(f"{order}; print(torchvision.imported)", broken) == "1"


def test_the_real_libraries_import_after_core():
    """In this process, core was imported before everything else (tests/conftest.py)."""
    import lightly.loss  # noqa: F401
    import lightning_fabric  # noqa: F401
    import timm  # noqa: F401
    import torchvision

    assert "function nms" in str(torchvision.ops.nms)


def test_torchvision_that_failed_before_imports_afterwards(broken):
    code = """
try:
    import torchvision
except RuntimeError as error:
    print("failed")
import core, importlib, torchvision
print(importlib.reload(torchvision).imported)
"""
    assert fresh(code, broken) == "failed\n2"


def test_asking_for_torchvision_imports_nothing(broken):
    code = """
import core, importlib.util, sys
spec = importlib.util.find_spec("torchvision")
print(spec.origin, "torch" in sys.modules, "torchvision" in sys.modules)
import torchvision
print(torchvision.__file__ == spec.origin, torchvision.__spec__.loader is torchvision.__loader__)
"""
    origin = broken / "torchvision" / "__init__.py"
    assert fresh(code, broken) == f"{origin} False False\nTrue True"


def test_a_torchvision_that_works_is_left_alone(tmp_path):
    (tmp_path / "torchvision.py").write_text("import sys\nheavy = 'torch' in sys.modules\n")
    code = """
import sys, torchvision
before = list(sys.meta_path)
import core
print(sys.meta_path == before, torchvision.heavy)
"""
    assert fresh(code, tmp_path) == "True False"


def test_without_torchvision_python_reports_it(tmp_path):
    code = """
import sys, core
sys.path[:] = [p for p in sys.path if "site-packages" not in p]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]
try:
    import torchvision
except ModuleNotFoundError as error:
    print(error.name)
"""
    assert fresh(code) == "torchvision"


def test_a_package_has_the_names_that_it_lists_and_no_others():
    import contrastive
    import core
    import probes
    import vae

    for package, name in (
        (core, "load"),
        (contrastive, "MoCo"),
        (vae, "VLAE"),
        (probes, "infonce_bound"),
    ):
        assert name in dir(package)
        assert getattr(package, name).__name__ == name
        with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute"):
            package.nothing_of_this_name  # noqa: B018
