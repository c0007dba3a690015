"""The Triton kernel of views, run by Triton's interpreter, against the eager views."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core import transfer
from core.data import fused_views, views
from core.data import images as stored
from core.data.images import Arrays
from core.data.source import train_sampler
from core.randomness import KeyedRNG

ROOT = Path(__file__).parents[2]

COMPARE = """
import json, sys, torch
from core.data import fused_views, views
from core.randomness import KeyedRNG

found = []
for name, channels, height, width, size in json.loads(sys.argv[1]):
    draw = torch.Generator().manual_seed(height)
    image = torch.randint(256, (6, channels, height, width), dtype=torch.uint8, generator=draw)
    policy = views.policy(name, size)
    drawn = [views.draw(6, height, width, KeyedRNG(0, 3).fork(str(v)), policy) for v in range(2)]
    eager = torch.stack([views.apply(image, one, policy) for one in drawn])
    fused = fused_views.make(image, torch.stack([views.packed(one) for one in drawn]), size)
    off = (eager.int() - fused.int()).abs()
    found.append([off.max().item(), (off > 0).float().mean().item()])
print(json.dumps(found))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton, which has an interpreter, is not here",
)
def test_the_kernel_makes_the_eager_views_to_one_level():
    cases = [
        ("simclr", 3, 32, 32, 32),
        ("moco", 3, 40, 24, 20),
        ("simclr", 1, 28, 28, 28),
    ]
    told = subprocess.run(  # a separate process, because Triton reads the variable only once
        [sys.executable, "-c", COMPARE, json.dumps(cases)],
        env=dict(
            os.environ, TRITON_INTERPRET="1", PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path])
        ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    for levels, share in json.loads(told.stdout.splitlines()[-1]):
        assert levels <= 1 and share < 1e-3


def test_the_parameters_have_the_layout_of_the_kernel():
    policy = views.policy("simclr", 32)
    drawn = views.draw(5, 32, 32, KeyedRNG(0, 0), policy)
    row = views.packed(drawn)
    assert row.shape == (5, fused_views.COLUMNS) and row.dtype == torch.float32
    assert torch.equal(row[:, :4].long(), drawn.box)
    assert torch.equal(row[:, 4].bool(), drawn.flip)
    assert torch.equal(row[:, 25] == 1, drawn.gray)
    assert (row[:, 24:].sum(1) == 1).all()


def test_a_step_copies_its_index_and_the_parameters_of_both_views_and_nothing_else(monkeypatch):
    """On a device without values, so that nothing can be read back from it."""
    copies = []

    def sent(tensors, device, send=transfer.send):
        copies.extend([len(tensors)] * (device.type == "meta"))
        return send(tensors, device)

    def make(image, parameters, size):
        return image.new_empty(len(parameters), len(image), image.shape[1], size, size)

    for module in (transfer, stored, views):
        monkeypatch.setattr(module, "send", sent)
    monkeypatch.setattr(fused_views, "serves", lambda image, size: True)
    monkeypatch.setattr(fused_views, "make", make)
    images = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    source = Arrays(images, torch.zeros(64, 1, dtype=torch.long), {"class": 1}).viewed("simclr")
    for batch in source.batches(train_sampler(64, 16, 0, 0, 3, device="meta"), 2):
        assert [view.shape for view in batch.views] == [(16, 3, 32, 32)] * 2
        assert copies == [1, 1]
        copies.clear()


@pytest.mark.parametrize("change", [{"rotation": 20.0}, {"blur": 0.5}])
def test_views_that_the_kernel_does_not_support_are_eager(change, monkeypatch):
    monkeypatch.setattr("core.data.fused_views.serves", lambda image, size: True)
    monkeypatch.setattr("core.data.fused_views.make", lambda *given: pytest.fail("was called"))
    policy = views.replace(views.policy("simclr", 32), **change)
    image = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    assert views.augment(image, KeyedRNG(0, 0), policy).shape == image.shape


def test_the_kernel_is_used_only_for_small_images_on_a_gpu(monkeypatch):
    monkeypatch.setattr(fused_views, "available", lambda: True)
    cpu = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert not fused_views.serves(cpu, 32)
    with torch._subclasses.FakeTensorMode():
        for side, size, served in ((32, 32, True), (96, 32, False), (32, 96, False)):
            image = torch.zeros(2, 3, side, side, dtype=torch.uint8, device="cuda")
            assert fused_views.serves(image, size) is served
        for channels, served in ((1, True), (2, False), (4, False)):
            image = torch.zeros(2, channels, 32, 32, dtype=torch.uint8, device="cuda")
            assert fused_views.serves(image, 32) is served
