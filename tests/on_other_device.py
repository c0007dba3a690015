"""Checks that run in a process of their own; `tests/core/test_other_device.py` starts them. Probes
give the same numbers on a device whose tensors can not be mixed with those of the CPU.
"""

from tests.other_device import other_device  # first: see there

# isort: split
import importlib

import pytest
import torch

from core.data.datasets import open_source
from core.frozen import Frozen
from core.run import checkpoint, config
from core.run.features import Features
from probes.labels.linear import linear
from probes.probe import Probe
from probes.registry import PROBES
from tests.front_door import ROOT

SMALL = ["folder=none", "data.sprites.train=64", "data.sprites.validation=32"]
SMALL += ["data.sprites.test=48", "data.workers=0"]
FEW = {"train": 64, "validation": 32, "test": 48, "shapes": 2, "colours": 4, "sizes": 1, "grid": 1}
SMALLER = {
    "clip_sprites": ["model.width=16", "model.layers=1", "model.heads=2", "model.vocabulary=64"]
    + [f"data.captioned_sprites.{key}={value}" for key, value in FEW.items()]
}


@pytest.fixture(autouse=True)
def short_critics(monkeypatch):
    monkeypatch.setattr("probes.views.critic.CYCLES", (4, 4))


@pytest.mark.parametrize("dimensions", [6, 300])
def test_the_linear_probe_finds_the_same(dimensions):
    """Few dimensions: Newton's method; many: L-BFGS."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1500, dimensions, generator=generator)
    y = x[:, :3].argmax(1)[:, None]
    splits = [Features(x[rows], y[rows], (("a", 3),)) for rows in (slice(1200), slice(1200, 1500))]
    here = linear(*splits)
    with other_device() as device:
        there = linear(*(Features(f.x.to(device), f.y.to(device), f.factors) for f in splits))
    assert there == pytest.approx(here, rel=1e-3)


def frozen(name: str, device: torch.device | str) -> Frozen:
    run = config.read(ROOT / f"configs/{name}.yaml", SMALL + SMALLER.get(name, []))
    torch.manual_seed(0)
    method = checkpoint.build_method(run, (3, 32, 32))
    if name == "clip_sprites":
        method.learn_words(open_source(run.data, "train", 0).captions(64))
    return Frozen(method, run, device=device)


def load(key: str) -> Probe:
    module, name = PROBES[key].rsplit(".", 1)
    return getattr(importlib.import_module(module), name)()


CHECKED = {
    "demo_simclr": ("information", "knn", "mlp", "finetune"),
    "demo_beta_vae": ("rate", "likelihood"),
    "clip_sprites": ("captions", "zero_shot"),
}


@pytest.mark.parametrize("name", CHECKED)
def test_a_probe_finds_the_same(name):
    here, differ = frozen(name, "cpu"), []
    with other_device() as device:
        there = frozen(name, device)
        for key in CHECKED[name]:
            probe = load(key)
            options = {option: min(value, 40) for option, value in probe.options.items()}
            expected = probe.headline(probe.measure(here, **options).numbers)
            found = probe.headline(probe.measure(there, **options).numbers)
            if found != pytest.approx(expected, abs=0.02):
                differ.append((key, found, expected))
    assert not differ


def test_a_mixed_operation_is_an_error():
    """If mixed tensors were no error, the other tests would show nothing."""
    with other_device() as device:
        there, here = torch.ones(2, device=device), torch.ones(2)
        for mixed in (
            lambda: there + here,
            lambda: here.add_(there.sum()),
            lambda: here[there.long()],
            lambda: torch.cat([here, there]),
            lambda: there.numpy(),
        ):
            with pytest.raises(RuntimeError, match="mixes tensors|not supported"):
                mixed()
        assert (there.cpu() + here).tolist() == [2, 2] and there[here.long()].tolist() == [1, 1]
