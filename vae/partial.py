"""What the first dimensions of a code tell about an image: pictures from these dimensions alone.

n = images, L = latent dimensions, C H W = image shape.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from core.information.units import bits
from vae.ans import Stack
from vae.bitsback import BitsBack, Images
from vae.lengths import SLICE, Codes, distortions


class Partial(NamedTuple):
    """What a receiver knows after only some dimensions. All bits are means over the images."""

    dimensions: int
    written: float  # -log2 p(z) of these dimensions: what is read before the receiver stops
    rate: float  # `written` minus the bits that a receiver of the whole image gets back
    # the bits that are still missing: -log2 p(x|z), with the prior's means of the other dimensions
    distortion: float
    pictures: NDArray[np.float32]  # [n, C, H, W] in [0, 1]


def partial(
    codec: BitsBack, images: Images, stops: Sequence[int] | None = None, seed: int = 0
) -> Iterator[Partial]:
    """Codes of images [n, C, H, W], cut after each number of dimensions in `stops` (by
    default 0, 1, 2, 4, 8 ... L).

    Dimensions that were not read get their mean under the prior, given the dimensions that were
    read. A picture is the mean of p(x|z) or, for autoregressive pixels, a sample. If dimensions are
    independent under the prior, those with the highest rates are read first. Otherwise they are
    read in the order of the prior.
    """
    grid = codec.grid(images)
    posterior = grid.rounded(*codec.moments(images))
    cells = grid.pop(Stack(), posterior).reshape(len(images), -1)
    popped = grid.cost(cells.ravel(), posterior).reshape(cells.shape)
    written = codec.prior.cost(grid, cells)
    rates = (written - popped).mean(0)
    order = np.arange(len(rates)) if codec.prior.ordered else np.argsort(-rates, kind="stable")
    z = grid.codes(cells)
    for count in stops if stops is not None else doubled(len(rates)):
        read = order[:count]
        known = np.isin(np.arange(len(rates)), read)
        own = codec.prior.expected(z, known)
        missing = [
            bits(distortions(codec, x, part)[1])
            for x, part in zip(
                codec.sliced(images, SLICE), torch.from_numpy(own).split(SLICE), strict=True
            )
        ]
        yield Partial(
            count,
            float(written[:, read].sum(1).mean()),
            float(rates[read].sum()),
            float(torch.cat(missing).mean()),
            pictures(codec, own, seed),
        )


def doubled(most: int) -> list[int]:
    """0, 1, 2, 4, ... and `most`.

    >>> doubled(20)
    [0, 1, 2, 4, 8, 16, 20]
    """
    return [0, *(1 << power for power in range(most.bit_length()) if 1 << power < most), most]


def pictures(codec: BitsBack, codes: Codes, seed: int) -> NDArray[np.float32]:
    """The mean of p(x|z) at codes [n, L], or a sample if there is no formula for the mean."""
    method, found = codec.method, []
    like = next(method.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for z in torch.from_numpy(codes).to(like).split(codec.rows):
            likelihood = method.likelihood(z)
            try:
                made = likelihood.mean
            except NotImplementedError:
                made = likelihood.sample()
            found.append(made.float().cpu().numpy())
    return np.concatenate(found)
