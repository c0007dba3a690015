"""No method copies from the host to the device in its forward pass. Such a copy makes a GPU wait,
and a CUDA graph can not record it. Methods run on the meta device, which has shapes and no values.
"""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core.batch import Batch
from core.data import captioned_sprites, scenes
from core.data import sprites as plain_sprites
from core.data.images import Arrays
from core.data.stored_captions import FromClasses
from core.randomness import KeyedRNG
from core.run import checkpoint, config
from core.run.cuda_graph import Numbers, RecordedRNG
from tests.front_door import ROOT

ROWS = 8
CONFIGS = sorted(
    path.stem
    for path in (ROOT / "configs").glob("*.yaml")
    # CLIP: captions are texts, whose tokens come from the host
    if (path.stem.endswith("_sprites") and not path.stem.startswith("clip"))
    or path.stem in ("vlae_mnist", "vae_pixelcnn_mnist")
)
META = torch.device("meta")


class HostCopies(TorchDispatchMode):
    """Collects the operators that bring values of the CPU to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, given=(), named=None):
        result = function(*given, **(named or {}))
        tensors = [x for x in tree_leaves((given, named)) if isinstance(x, torch.Tensor)]
        on_device = any(x.device == META for x in tensors) or (
            isinstance(result, torch.Tensor) and result.device == META
        )
        host = [x for x in tensors if x.device.type == "cpu"]
        copies = function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        # a number as a tensor without dimensions goes into a kernel's arguments, except in a copy
        if on_device and any(x.ndim or copies for x in host):
            self.found.append(str(function))
        return result


def meta_method(name: str):
    run = config.read(ROOT / f"configs/{name}.yaml", ["folder=none"])
    shape = (1, 28, 28) if "mnist" in name else (3, 32, 32)
    return checkpoint.build_method(run, shape).to(META)


def meta_batch(method, rng):
    views = (torch.zeros(ROWS, *method.shape, dtype=torch.uint8, device=META),) * method.views
    index = torch.zeros(ROWS, dtype=torch.long, device=META)
    return Batch(views, index[:, None], index, rng)


def captioned(kind: str):
    """A set whose captions say what its labels say, of a few images."""
    if kind == "stored":
        images, labels = torch.zeros(ROWS, 3, 8, 8, dtype=torch.uint8), torch.arange(ROWS) % 2
        made = Arrays(images, labels[:, None], {"class": 2})
        return made.with_captions(FromClasses(["cat", "dog"]))
    module = {"captioned_sprites": captioned_sprites, "scenes": scenes}[kind]
    (source,) = (x for x in vars(module).values() if getattr(x, "name", None) == kind)
    return source(source.Config(train=ROWS, validation=ROWS, test=ROWS), "train", 0)


def _has_list(key) -> bool:
    return any(isinstance(part, list) for part in (key if isinstance(key, tuple) else (key,)))


@pytest.fixture
def made_on_device(monkeypatch):
    """Tensors that are made from Python numbers on the device; the mode does not see them."""
    made = []

    def watch(owner, name):
        function = getattr(owner, name)

        def watched(*given, **named):
            result = function(*given, **named)
            if result.device == META:
                made.append(name)
            return result

        monkeypatch.setattr(owner, name, watched)

    watch(torch, "tensor")
    watch(torch, "as_tensor")
    watch(torch.Tensor, "new_tensor")
    for name in ("__getitem__", "__setitem__"):
        function = getattr(torch.Tensor, name)

        def indexed(x, key, *value, function=function):
            if x.device == META and _has_list(key):
                made.append("list")
            return function(x, key, *value)

        monkeypatch.setattr(torch.Tensor, name, indexed)
    return made


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_copies_nothing_from_the_host(name, made_on_device, monkeypatch):
    # this device has no autocast
    monkeypatch.setattr(torch, "autocast", lambda *given, **named: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *given: False)
    method = meta_method(name)
    rng = RecordedRNG(Numbers(KeyedRNG(0, 0), META))
    method(meta_batch(method, rng)).loss.backward()  # the random numbers get their places
    made_on_device.clear()
    with HostCopies() as copies:
        method(meta_batch(method, rng)).loss.backward()
    assert not copies.found and not made_on_device


def test_such_a_copy_is_seen(made_on_device):
    with HostCopies() as copies:
        x = torch.zeros(3, device=META)
        x + 1.5
        torch.tensor(2.0) * x
        assert not copies.found
        assert not made_on_device
        x.copy_(torch.zeros(3))
        x[torch.tensor([0, 2])]
        assert len(copies.found) == 2
        x.new_tensor(1.0)
        x[[0, -1]] = 2
    assert made_on_device == ["new_tensor", "list"]


@pytest.mark.parametrize("kind", ["captioned_sprites", "scenes", "stored"])
def test_captions_are_made_without_reading_the_device(kind, monkeypatch):
    def texts(device):
        order = [(torch.arange(ROWS), KeyedRNG(0, 3, device=device))]
        (batch,) = captioned(kind).batches(order, 1)
        assert batch.label.device == torch.device(device)
        return batch.text

    expected = texts("cpu")
    for module in (plain_sprites, scenes):  # rendering looks for the rows of each shape
        monkeypatch.setattr(module, "render", lambda content, *given: content)
    assert texts("meta") == expected  # a tensor there has no values to read
    assert len(set(expected)) > 1
