"""Every example in the docstrings of exported names runs and gives the result that it shows."""

import doctest
import importlib
from functools import partial

import pytest

from core.information import ATOMS
from core.run import checkpoint, config
from core.run.checkpoint import State
from core.run.folder import RunFolder
from core.run.optim import build_optimizer
from probes.samples import panel

MODULES = (
    "core",
    "core.information",
    "core.information.atoms",
    "core.information.from_samples",
    "core.information.gaussians",
    "core.information.generalisation",
    "core.information.losses",
    "core.information.nml",
    "core.information.units",
    "contrastive",
    "vae",
    "probes",
    "probes.api",
    "probes.samples.estimate",
)
EXPORTED = {
    "core": ("load",),
    "core.information": ("nt_xent", "infonce", *ATOMS),
    "contrastive": ("SimCLR", "MoCo"),
    "vae": ("BetaVAE", "VLAE"),
    "probes": ("linear", "knn", "infonce_bound", "estimate"),
}


def examples(module: str) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder().find(importlib.import_module(module))
    return [test for test in found if test.examples]


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(panel, "LEAST_STEPS", 100)
    monkeypatch.setattr(panel, "Plan", partial(panel.Plan, check_every=10, patience=2))
    run = config.read("simclr_sprites", ["folder=runs/mine", "model.hidden=32"])
    method = checkpoint.build_method(run, (3, 32, 32))
    RunFolder(run.folder).path.mkdir(parents=True)
    optimizer = build_optimizer(method, run.optim)
    checkpoint.save(RunFolder(run.folder).last, State(run, method, optimizer))
    tests = examples(module)
    assert tests
    for test in tests:
        found = doctest.DocTestRunner().run(test)
        assert found.attempted and not found.failed, f"{test.name}: see the output above"


@pytest.mark.parametrize("package", EXPORTED)
def test_everything_exported_has_an_example(package):
    source = "".join(
        example.source
        for module in MODULES
        for test in examples(module)
        for example in test.examples
    )
    for name in EXPORTED[package]:
        exported = getattr(importlib.import_module(package), name)
        assert exported.__doc__ and name in source
