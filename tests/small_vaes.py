"""Small VAEs of every kind that the codec knows, and images of them."""

from pathlib import Path

import numpy as np
import torch

from core.run import checkpoint, config
from core.run.optim import build_optimizer
from vae.beta import BetaVAE, BetaVAEConfig
from vae.priors import PriorConfig
from vae.vlae import VLAE, VLAEConfig

FLOW, VAMP = PriorConfig("flow", steps=2, width=16), PriorConfig("vamp", pseudo_inputs=9)
SMALL = {"backbone": "mlp", "decoder": "mlp", "width": 16, "latent": 4}
CHAIN = {"pixel_width": 6, "pixel_blocks": 1}
CASES = {
    "beta": (BetaVAE, (1, 8, 8), {}),
    "conv": (BetaVAE, (3, 8, 8), {"likelihood": "logistic", "backbone": "conv", "decoder": "conv"}),
    "categorical": (BetaVAE, (1, 8, 8), {"likelihood": "categorical", "prior": FLOW}),
    "mixture": (BetaVAE, (3, 8, 8), {"likelihood": "logistic_mixture", "components": 3}),
    "vamp": (BetaVAE, (1, 8, 8), {"prior": VAMP}),
    "residual": (BetaVAE, (1, 8, 8), {"backbone": "residual", "decoder": "residual"}),
    "window": (VLAE, (1, 8, 8), CHAIN | {"prior": FLOW, "window": "2"}),
    "colours": (VLAE, (3, 4, 4), CHAIN | {"prior": FLOW, "window": "2", "likelihood": "logistic"}),
    "rectangle": (
        VLAE,
        (1, 8, 8),
        CHAIN | {"prior": FLOW, "window": "4x2", "likelihood": "categorical"},
    ),
    "full": (VLAE, (1, 8, 8), CHAIN | {"window": "full", "prior": VAMP}),
}


def model(name: str) -> BetaVAE:
    """A small model whose weights are not those of the start, so that codes and pixels matter."""
    kind, shape, more = CASES[name]
    config = (VLAEConfig if kind is VLAE else BetaVAEConfig)(**{**SMALL, **more})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = kind(config, shape)
        for parameter in made.code_prior.parameters():
            parameter.data.normal_(std=0.2)
    return made.eval()


def some_images(method: BetaVAE, n: int, seed: int = 0) -> np.ndarray:
    """Samples of the model itself."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        x = method.likelihood(method.prior().sample((n,))).sample()
    return (x * 255).round().numpy().astype(np.uint8)


def saved(folder: Path, seed: int = 0, likelihood: str = "logistic") -> Path:
    """A run folder with an untrained VAE of sprites."""
    run = config.RunConfig(
        method="vae.beta.BetaVAE",
        model=BetaVAEConfig(
            backbone="mlp", decoder="mlp", width=8, latent=4, likelihood=likelihood
        ),
        folder=str(folder),
        data=config.DataConfig(),
        wandb=config.WandbConfig("disabled"),
        seed=seed,
    )
    method = checkpoint.build_method(run, (3, 32, 32))
    folder.mkdir()
    state = checkpoint.State(run, method, build_optimizer(method, run.optim))
    checkpoint.save(folder / "last.ckpt", state)
    return folder
