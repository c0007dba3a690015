"""What a VAE shows a person: reconstructions and latent traversals."""

from core.batch import as_float
from core.pictures import save_grid

from pathlib import Path

import torch
from torch import Tensor

from vae.beta import BetaVAE


@torch.no_grad()
def reconstructions(method: BetaVAE, x: Tensor, path: Path) -> Path:
    """Two rows: images [N, C, H, W] and what the decoder makes of their posterior means."""
    return save_grid(path, [as_float(x).cpu(), method.likelihood(method.embed(x)).mean.cpu()])


@torch.no_grad()
def traversals(method: BetaVAE, x: Tensor, path: Path, rows: int = 8, columns: int = 9) -> Path:
    """One row a latent dimension, those that vary most over x first: the first image's code with that dimension moved from -2.5 to 2.5."""
    codes = method.embed(x)
    chosen = codes.var(0).argsort(descending=True)[:rows]
    z = codes[0].repeat(len(chosen), columns, 1)
    for row, dimension in enumerate(chosen):
        z[row, :, dimension] = torch.linspace(-2.5, 2.5, columns, device=z.device)
    return save_grid(path, [method.likelihood(z[row]).mean.cpu() for row in range(len(chosen))])
