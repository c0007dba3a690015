"""What a VAE shows a person: reconstructions and latent traversals, as rows of images.

N = images of a row, C H W = image shape, L = latent dimensions.
"""

import torch
from torch import Tensor

from core.batch import as_float
from core.method import LatentModel
from core.randomness import KeyedRNG
from vae.autoregressive import AutoregressiveImage


@torch.no_grad()
def reconstructions(method: LatentModel, x: Tensor) -> list[Tensor]:
    """Rows of images [N, C, H, W]: x, and what the decoder makes of its posterior means; of an
    autoregressive decoder two samples, for what they have in common is what the code says.
    """
    codes = method.posterior(x).mean
    made = 2 if isinstance(method.likelihood(codes[:1]), AutoregressiveImage) else 1
    return [as_float(x).cpu(), *(decoded(method, codes, str(number)) for number in range(made))]


@torch.no_grad()
def traversals(method: LatentModel, x: Tensor, rows: int = 8, columns: int = 9) -> list[Tensor]:
    """One row for each latent dimension, those that vary most over x first: the code of the first
    image with that dimension moved from -2.5 to 2.5.

    An autoregressive decoder samples with the same noise everywhere, so that pictures differ by
    their codes alone.
    """
    codes = method.posterior(x).mean
    chosen = codes.var(0, correction=0).argsort(descending=True)[:rows]
    z = codes[0].repeat(len(chosen), columns, 1)
    for row, dimension in enumerate(chosen):
        z[row, :, dimension] = torch.linspace(-2.5, 2.5, columns, device=z.device)
    return list(decoded(method, z.flatten(0, 1), "traversal", shared=True).split(columns))


def decoded(method: LatentModel, z: Tensor, purpose: str, shared: bool = False) -> Tensor:
    """Images [N, C, H, W] of codes [N, L]: the mean of p(x|z), or a sample where it has none, all
    from the same noise if `shared`.
    """
    law = method.likelihood(z)
    if not isinstance(law, AutoregressiveImage):
        return law.mean.cpu()
    noise = KeyedRNG(0, 0, device=z.device).uniform(
        f"picture {purpose}", 1 if shared else len(z), *law.network.shape
    )
    return law.from_uniform(noise.expand(len(z), -1, -1, -1)).cpu()
