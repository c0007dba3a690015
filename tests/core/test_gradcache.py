"""Micro batches give the loss and the gradient of the whole batch, for every method; a simple mean
over micro batches does not.
"""

import pytest
import torch
from torch import Tensor

from contrastive.moco import MoCo, MoCoConfig
from contrastive.simclr import SimCLR, SimCLRConfig
from core.batch import Batch, Output
from core.method import Method
from core.randomness import KeyedRNG
from vae.beta import BetaVAE, BetaVAEConfig
from vae.rate import RateConfig

SHAPE = (3, 8, 8)
TINY = {"hidden": 16, "projection": 8}
METHODS = {
    "simclr": lambda: SimCLR(SimCLRConfig(**TINY), SHAPE),
    "moco": lambda: MoCo(MoCoConfig(queue=100, **TINY), SHAPE),
    "vae": lambda: BetaVAE(
        BetaVAEConfig(
            backbone="small",
            decoder="mlp",
            width=16,
            latent=4,
            rate=RateConfig("free_bits", nats=0.3),
        ),
        SHAPE,
    ),
}


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def build(name: str, micro_batch: int = 0) -> Method:
    torch.manual_seed(0)
    method = METHODS[name]()
    method.micro_batch = micro_batch
    return method


def images(n: int, method: Method) -> Batch:
    rng = KeyedRNG(0, 0)
    views = tuple(
        rng.integers(f"view{v}", 256, n, *SHAPE).to(torch.uint8) for v in range(method.views)
    )
    return Batch(views, torch.zeros(n, 1, dtype=torch.long), torch.arange(n), rng)


def gradient(method: Method, output: Output) -> Tensor:
    return torch.cat(
        [
            g.flatten()
            for g in torch.autograd.grad(
                output.loss, [p for p in method.parameters() if p.requires_grad]
            )
        ]
    )


def apart(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("name", METHODS)
def test_eight_micro_batches_of_128_have_the_gradient_of_1024_images(name):
    """Batch norm is in eval mode, because its statistics would be those of a micro batch."""
    whole, parted = build(name).eval(), build(name, 128).eval()
    one, eight = whole(images(1024, whole)), parted(images(1024, parted))
    assert eight.loss.item() == pytest.approx(one.loss.item(), rel=1e-12)
    assert apart(gradient(parted, eight), gradient(whole, one)) < 1e-9


def test_the_mean_of_micro_batches_is_another_objective():
    whole = build("simclr").eval()
    batch = images(64, whole)
    halves = [
        batch._replace(views=tuple(view[part] for view in batch.views), index=batch.index[part])
        for part in (slice(32), slice(32, 64))
    ]
    accumulated = torch.stack([gradient(whole, whole(half)) for half in halves]).mean(0)
    assert apart(accumulated, gradient(whole, whole(batch))) > 1e-3


@pytest.mark.parametrize("size", [24, 10])  # the last micro batch of 64 images has 16, or 4
def test_batch_norm_sees_a_micro_batch_and_remembers_it_once(size):
    parted, plain = build("simclr", size).train(), build("simclr").train()
    batch = images(64, parted)
    output = parted(batch)
    found = gradient(parted, output)

    def in_parts(encode, *inputs):
        made = [encode(*part) for part in zip(*(x.split(size) for x in inputs), strict=True)]
        return tuple(map(torch.cat, zip(*made, strict=True)))

    plain.in_micro_batches = in_parts
    assert apart(found, gradient(plain, plain(batch))) < 1e-9
    for (name, buffer), other in zip(parted.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, msg=name)


def test_activations_are_kept_for_only_one_micro_batch():
    """The bytes that the graph of a loss holds: with 16 micro batches, a sixteenth of the
    activations, and the codes.
    """

    def held(micro_batch: int) -> int:
        method = build("simclr", micro_batch).train()
        kept: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        batch = images(256, method)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            method(batch)
        return sum(kept.values())

    assert held(16) < held(0) / 10
