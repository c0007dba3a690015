"""Random numbers as a function of (seed, step, purpose, place in the global batch): there is no
generator state to save.

B = images on this process, W = processes, so the global batch holds W B images.
"""

import hashlib

import torch
from torch import Tensor


class KeyedRNG:
    """The random numbers of one global batch.

    Each number is drawn for the whole global batch from a generator with the key (seed, step,
    purpose), and each process takes its slice. So the number of processes does not matter, a
    resumed run needs no state, and two purposes never share numbers.
    """

    def __init__(
        self,
        seed: int,
        step: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        path: str = "",
    ):
        self.seed, self.step, self.rank, self.world, self.device, self.path = (
            seed,
            step,
            rank,
            world,
            torch.device(device),
            path,
        )

    def fork(self, name: str) -> "KeyedRNG":
        """Independent draws under a name of their own, e.g. `rng.fork("view0")`."""
        return KeyedRNG(
            self.seed, self.step, self.rank, self.world, self.device, f"{self.path}/{name}"
        )

    def generator(self, purpose: str) -> torch.Generator:
        """A generator that is equal on all processes, for decisions about the global batch."""
        text = f"{self.seed}:{self.step}:{self.path}/{purpose}".encode()
        seed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
        return torch.Generator(self.device).manual_seed(seed)

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Standard normal numbers [B, ...] for this process's B images."""
        return self._mine(
            torch.randn(self._whole(shape), generator=self.generator(purpose), device=self.device),
            shape[0],
        )

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), [B, ...], for this process's B images."""
        return self._mine(
            torch.rand(self._whole(shape), generator=self.generator(purpose), device=self.device),
            shape[0],
        )

    def integers(self, purpose: str, high: int, *shape: int) -> Tensor:
        """Uniform integers in [0, high), int64 [B, ...], for this process's B images."""
        whole = torch.randint(
            high, self._whole(shape), generator=self.generator(purpose), device=self.device
        )
        return self._mine(whole, shape[0])

    def permutation(self, purpose: str, n: int) -> Tensor:
        """A permutation of n things, int64 [n], the same on every process."""
        return torch.randperm(n, generator=self.generator(purpose), device=self.device)

    def _whole(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0] * self.world, *shape[1:])

    def _mine(self, whole: Tensor, size: int) -> Tensor:
        return whole[self.rank * size : (self.rank + 1) * size]
