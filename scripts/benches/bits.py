"""Lossless files by bits-back coding: our codec against the layout of published coders, with the
same model. In the published layout, each element of a batch has a lane of 64 bits, which is written
without compression.

Townsend, Bird, Barber 2019; lanes as in Townsend et al. 2020 (HiLLoC). To compare both on the data
of a checkpoint:

    python -m scripts.benches.bits runs/beta_vae_mnist test data.root=/data data.binarise=true
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.data.plain import plain_images
from core.errors import UserError, exit_cleanly
from core.run import checkpoint, config
from probes.origins import find
from scripts.benches.contest import Contest
from scripts.benches.vae import digits
from vae.ans import LEAST, Stack
from vae.beta import BetaVAE, BetaVAEConfig
from vae.bitsback import BitsBack, Images, compressor
from vae.container import Packer
from vae.grid import Grid

BATCHES, COUNT, FEW = (1, 10, 100, 500), 2000, 300
LATENT, WIDTH = 20, 256


class OneLaneAnElement(BitsBack):
    """The published layout. Each batch has `batch` images. All lanes exist from the start. A lane
    is an ANS state of 64 bits (its head). At the start, this state has the fewest bits that are
    allowed: the highest bit is set, and the others are random. The file holds the 32-bit words that
    lanes have put out, and all heads without compression.
    """

    def packed(self, images: Images) -> tuple[Stack, Grid, int]:
        """The stack, its grid and the length of the file in bits."""
        lanes = min(self.batch, len(images)) * images[0].size
        heads = np.random.default_rng(0).integers(int(LEAST), 2 * int(LEAST), lanes)
        stack, grid = Stack(heads=heads.astype(np.uint64)), self.grid(images)
        for number, first in enumerate(range(0, len(images), self.batch)):
            place = slice(first, min(first + self.batch, len(images)))
            self._encode_batch(stack, grid, images, place, number, wider=False)
        return stack, grid, 32 * len(stack.words) + 64 * len(stack.heads)

    def unpacked(self, stack: Stack, grid: Grid, count: int) -> Images:
        """The images of a stack."""
        parts = []
        for number, first in reversed(list(enumerate(range(0, count, self.batch)))):
            parts.append(self._decode_batch(stack, grid, min(self.batch, count - first), number))
        return np.concatenate(parts[::-1])


def contests(device: torch.device) -> Iterator[Contest]:
    """2,000 binary images of 28x28 (300 if a batch is one image) and a beta-VAE that was trained on
    such images for an epoch. Both sides code and decode all of them.
    """
    if device.type != "cpu":
        print("bits: skipped, because bits-back coding is computed on the CPU; use --device cpu")
        return
    images = digits()
    method = trained(images)
    held_out = images[-COUNT:].numpy()
    for batch in BATCHES:
        yield contest(method, held_out[: FEW if batch == 1 else COUNT], batch)


@torch.no_grad()
def contest(method: Any, images: Images, batch: int) -> Contest:
    """Both sides code and decode images; ours must be smaller."""

    def ours() -> float:
        codec = Packer(method, batch=batch)
        data = codec.pack(images).data
        assert np.array_equal(codec.unpack(data), images)
        return 8 * len(data) / images.size

    def published() -> float:
        codec = OneLaneAnElement(method, batch=batch)
        stack, grid, size = codec.packed(images)
        assert np.array_equal(codec.unpacked(stack, grid, len(images)), images)
        return size / images.size

    def same(mine: float, theirs: float) -> str:
        assert mine < theirs, f"ours has {mine:.4f} bits/dim, theirs {theirs:.4f}"
        return f"same images; {mine:.4f} and {theirs:.4f} bits/dim"

    name = f"{len(images):,} images, batches of {batch}"
    return Contest(name, ours, "one lane an element, raw heads", published, same)


def trained(images: torch.Tensor) -> BetaVAE:
    """A beta-VAE after one epoch on images [n, C, H, W], uint8 0 or 255."""
    torch.manual_seed(0)
    config = BetaVAEConfig(backbone="mlp", decoder="mlp", width=WIDTH, latent=LATENT)
    channels, height, width = images.shape[1:]
    method = BetaVAE(config, (channels, height, width))
    optimizer = torch.optim.Adam(method.parameters(), 1e-3)
    for x in (images / 255.0).split(128):
        mean, log_sigma = method.moments(x)
        z = mean + log_sigma.exp() * torch.randn_like(mean)
        nelbo = -method.likelihood(z).log_prob(x).sum() / len(x)
        nelbo = nelbo + method.code_prior.rate(mean, log_sigma, z).sum() / len(x)
        optimizer.zero_grad()
        nelbo.backward()
        optimizer.step()
    return method.eval()


@exit_cleanly
@torch.no_grad()
def main(*words: str) -> None:
    """Print a line for each batch size: bits/dim of both files. `words`: a run or checkpoint, its
    data as in `compress`, and overrides of the data.
    """
    if len(words) < 2:
        raise UserError("give a run or checkpoint and its data, such as: runs/beta_vae_mnist test")
    run, data, *overrides = words
    path = find(Path(run), best=False)
    found = checkpoint.load_method(path)
    compressor(found.method)  # `UserError` if it has no codec
    chosen = config.override(found.run, overrides, run)
    plain = plain_images(data, chosen.data, chosen.seed, found.method.shape, COUNT, COUNT)
    images = next(plain.blocks)
    for batch in BATCHES:
        given = images[: FEW if batch == 1 else COUNT]
        made = contest(found.method, given, batch)
        began = time.process_time()
        said = made.same(made.ours(), made.peer())
        print(f"{made.name}: {said}; {time.process_time() - began:.0f} s of CPU time", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
