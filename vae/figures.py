"""Pictures of a VAE as rows of images: reconstructions, latent traversals, samples of the prior.

N = images of a row, C H W = image shape, L = latent dimensions.
"""

import torch
from torch import Tensor

from core.batch import as_float
from core.method import LatentModel
from core.randomness import KeyedRNG
from core.run.pictures import Grid
from vae.autoregressive import AutoregressiveImage


@torch.no_grad()
def reconstructions(method: LatentModel, x: Tensor) -> list[Tensor]:
    """Rows of images [N, C, H, W]: x, and the decoded posterior means. An autoregressive decoder
    gives two samples; what they have in common comes from the code.
    """
    codes = method.posterior(x).mean
    made = 2 if isinstance(method.likelihood(codes[:1]), AutoregressiveImage) else 1
    rows = [as_float(x).cpu(), *(decoded(method, codes, str(number)) for number in range(made))]
    second = ["reconstruction"] if made == 1 else ["sample 1", "sample 2"]
    return Grid(rows, ["image", *second], title="Images and what the decoder makes of their codes")


@torch.no_grad()
def traversals(method: LatentModel, x: Tensor, rows: int = 8, columns: int = 9) -> list[Tensor]:
    """Rows of decoded codes: the first image's code, with one dimension moved from -2.5 to 2.5.
    Each row moves one latent dimension, beginning with the one that varies most over x.

    An autoregressive decoder uses the same noise for all pictures, so only the codes differ.
    """
    codes = method.posterior(x).mean
    chosen = codes.var(0, correction=0).argsort(descending=True)[:rows]
    z = codes[0].repeat(len(chosen), columns, 1)
    values = torch.linspace(-2.5, 2.5, columns, device=z.device)
    for row, dimension in enumerate(chosen):
        z[row, :, dimension] = values
    made = decoded(method, z.flatten(0, 1), "traversal", shared=True).split(columns)
    return Grid(
        made,
        [f"z {dimension}" for dimension in chosen.tolist()],
        [f"{value:+.1f}".replace("-", "−") for value in values.tolist()],
        title="One dimension of z moved, the others as in the first image",
    )


@torch.no_grad()
def samples(method: LatentModel, rows: int = 4, columns: int = 10) -> list[Tensor]:
    """Rows of decoded codes z ~ p(z), which are the same in every call. No image is
    encoded for them, so they show which images the model considers likely.
    """
    like = next(method.parameters())  # type: ignore[attr-defined]
    devices = [like.device] if like.is_cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        z = method.prior().sample(torch.Size((rows * columns,)))
    made = decoded(method, z.to(like.device), "prior").split(columns)
    return Grid(list(made), title="Codes drawn from the prior, decoded")


def decoded(method: LatentModel, z: Tensor, purpose: str, shared: bool = False) -> Tensor:
    """Images [N, C, H, W] of codes [N, L]: the mean of p(x|z), or a sample if it has no mean
    (`shared`: with the same noise for all).
    """
    distribution = method.likelihood(z)
    if not isinstance(distribution, AutoregressiveImage):
        return distribution.mean.cpu()
    shape = (1 if shared else len(z), *distribution.network.shape)
    noise = KeyedRNG(0, 0, device=z.device).uniform(f"picture {purpose}", *shape)
    return distribution.from_uniform(noise.expand(len(z), -1, -1, -1)).cpu()
