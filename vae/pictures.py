"""What a VAE shows a person: reconstructions and latent traversals."""

from core.batch import as_float
from core.randomness import KeyedRNG
from core.run.pictures import save_grid

from pathlib import Path

import torch
from torch import Tensor

from vae.autoregressive import AutoregressiveImage
from vae.beta import BetaVAE


@torch.no_grad()
def reconstructions(method: BetaVAE, x: Tensor, path: Path) -> Path:
    """Rows: images [N, C, H, W] and what the decoder makes of their posterior means; of an
    autoregressive decoder two samples, for what they have in common is what the code says.
    """
    codes = method.embed(x)
    made = 2 if isinstance(method.likelihood(codes[:1]), AutoregressiveImage) else 1
    return save_grid(
        path, [as_float(x).cpu(), *(decoded(method, codes, str(number)) for number in range(made))]
    )


@torch.no_grad()
def traversals(method: BetaVAE, x: Tensor, path: Path, rows: int = 8, columns: int = 9) -> Path:
    """One row a latent dimension, those that vary most over x first: the first image's code with
    that dimension moved from -2.5 to 2.5.

    An autoregressive decoder samples with the same noise everywhere, so that pictures differ by
    their codes alone.
    """
    codes = method.embed(x)
    chosen = codes.var(0).argsort(descending=True)[:rows]
    z = codes[0].repeat(len(chosen), columns, 1)
    for row, dimension in enumerate(chosen):
        z[row, :, dimension] = torch.linspace(-2.5, 2.5, columns, device=z.device)
    return save_grid(
        path, list(decoded(method, z.flatten(0, 1), "traversal", shared=True).split(columns))
    )


def decoded(method: BetaVAE, z: Tensor, purpose: str, shared: bool = False) -> Tensor:
    """Images [N, C, H, W] of codes [N, L]: the mean of p(x|z), or a sample where it has none, all
    from the same noise if `shared`.
    """
    law = method.likelihood(z)
    if not isinstance(law, AutoregressiveImage):
        return law.mean.cpu()
    noise = KeyedRNG(0, 0, device=z.device).uniform(
        f"picture {purpose}", 1 if shared else len(z), *method.shape
    )
    return law.from_uniform(noise.expand(len(z), -1, -1, -1)).cpu()
