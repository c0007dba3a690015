"""Random numbers as a function of (seed, step, purpose, place in the global batch): there is no
generator state to save.

The numbers come from a counter-based generator, Philox 4x64-10 (Salmon et al. 2011: Parallel random
numbers: as easy as 1, 2, 3), whose blocks of 256 bits can be computed in any order. So a process
computes only the numbers of its own rows, and all devices get the same numbers.

B = images on this process, W = processes, so the global batch holds W B images.
"""

import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.transfer import to_device

WORDS = 4  # 64-bit words of a block of Philox


class KeyedRNG:
    """The random numbers of one global batch.

    The generator's key is (seed, step, purpose); a row's place in the global batch selects its
    blocks. So the number of processes does not matter, a resumed run needs no state, and two
    purposes never share numbers. The numbers are computed on the CPU and copied to `device`.

    >>> rng = KeyedRNG(seed=0, step=7)
    >>> first, second = (KeyedRNG(0, 7, rank, world=2).uniform("noise", 2) for rank in (0, 1))
    >>> torch.equal(rng.uniform("noise", 4), torch.cat([first, second]))
    True
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
        self.seed, self.step, self.rank, self.world = seed, step, rank, world
        self.device, self.path = torch.device(device), path

    def fork(self, name: str) -> "KeyedRNG":
        """Independent numbers for the purpose `name`, e.g. `rng.fork("view0")`."""
        return KeyedRNG(
            self.seed, self.step, self.rank, self.world, self.device, f"{self.path}/{name}"
        )

    def common(self) -> "KeyedRNG":
        """Numbers that are equal on all processes, for something that the processes share."""
        return KeyedRNG(self.seed, self.step, device=self.device, path=self.path)

    def part(self, number: int, parts: int) -> "KeyedRNG":
        """The numbers of one of `parts` equal parts of this process's rows.

        >>> rng = KeyedRNG(seed=0, step=7)
        >>> halves = [rng.part(number, 2).uniform("noise", 2) for number in (0, 1)]
        >>> torch.equal(rng.uniform("noise", 4), torch.cat(halves))
        True
        """
        rank, world = self.rank * parts + number, self.world * parts
        return KeyedRNG(self.seed, self.step, rank, world, self.device, self.path)

    def on(self, device: torch.device | str) -> "KeyedRNG":
        """The same numbers on another device."""
        return KeyedRNG(self.seed, self.step, self.rank, self.world, device, self.path)

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), [B, ...], for this process's B images: multiples of 2^-24, or
        of 2^-53 if float64 is torch's default.
        """
        if torch.get_default_dtype() == torch.float64:
            return self._there(_fractions(self._words(purpose, shape)), shape)
        words = self._words(purpose, shape, per_word=2)
        return self._there(
            torch.from_numpy((words >> np.uint32(8)).astype(np.float32)).mul_(2**-24), shape
        )

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Standard normal numbers [B, ...] for this process's B images, by Box and Muller (1958):
        sqrt(-2 log u) times cos(2 pi v) and sin(2 pi v).
        """
        if torch.get_default_dtype() == torch.float64:
            words = self._words(purpose, (shape[0], _even(shape)))
            u = _fractions(words).add_(2**-54)
        else:
            words = self._words(purpose, (shape[0], _even(shape)), per_word=2)
            u = torch.from_numpy(words.astype(np.float32)).add_(0.5).mul_(2**-32)
        half = u.shape[1] // 2
        radius, angle = u[:, :half].log_().mul_(-2).sqrt_(), u[:, half:].mul_(2 * math.pi)
        both = torch.cat([angle.cos().mul_(radius), angle.sin().mul_(radius)], 1)
        return self._there(both[:, : math.prod(shape[1:])], shape)

    def integers(self, purpose: str, high: int, *shape: int) -> Tensor:
        """Uniform integers in [0, high), int64 [B, ...], for this process's B images."""
        fractions = _fractions(self._words(purpose, shape))
        return self._there(fractions.mul_(high).long().clamp_(max=high - 1), shape)

    def permutation(self, purpose: str, n: int) -> Tensor:
        """A permutation of n items, int64 [n], equal on all processes."""
        keys = self._generator(purpose, 0).random_raw(n)
        return to_device(torch.from_numpy(keys.argsort(kind="stable")), self.device)

    def _generator(self, purpose: str, block: int) -> np.random.Philox:
        text = f"{self.seed}:{self.step}:{self.path}/{purpose}".encode()
        key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
        # numpy increments the counter before it computes a block
        return np.random.Philox(key=key, counter=(block - 1) % 2**256)

    def _words(
        self, purpose: str, shape: tuple[int, ...], per_word: int = 1
    ) -> NDArray[np.unsignedinteger]:
        """The random words of this process's rows, [B, columns], with 64 bits, or 32 if `per_word`
        is 2. Each row starts with a new block.
        """
        rows, columns = shape[0], math.prod(shape[1:])
        blocks = -(-columns // (WORDS * per_word))
        raw = self._generator(purpose, self.rank * rows * blocks).random_raw(rows * blocks * WORDS)
        words = raw.astype("<u8", copy=False).view("<u4") if per_word == 2 else raw
        return words.reshape(rows, -1)[:, :columns]

    def _there(self, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        return to_device(values.reshape(shape), self.device)


def _fractions(words: NDArray[np.unsignedinteger]) -> Tensor:
    """64-bit words as float64 in [0, 1), multiples of 2^-53."""
    return torch.from_numpy((words >> np.uint64(11)).astype(np.float64)).mul_(2**-53)


def _even(shape: tuple[int, ...]) -> int:
    columns = math.prod(shape[1:])
    return columns + columns % 2
