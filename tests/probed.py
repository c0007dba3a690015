"""Probe an untrained VAE in this process, as a user would call it from a shell."""

import json

import torch

from core.data.sprites import SpritesConfig
from core.run import checkpoint, config
from core.run.checkpoint import State
from core.run.optim import build_optimizer
from scripts.probe import main
from vae.beta import BetaVAE, BetaVAEConfig
from vae.priors import PriorConfig

SPRITES = SpritesConfig(shapes=2, colours=3, sizes=1, grid=2, train=300, validation=128, test=200)


def saved(
    folder,
    prior: str = "standard",
    spread: float = 50.0,
    name: str = "last",
    seed: int = 0,
    overrides: list[str] | None = None,
    wandb_id: str = "",
) -> BetaVAE:
    """A checkpoint of an untrained VAE whose posterior means vary."""
    model = BetaVAEConfig(width=8, latent=4, likelihood="logistic", prior=PriorConfig(prior))
    run = config.RunConfig(
        method="vae.beta.BetaVAE",
        model=model,
        folder=str(folder),
        data=config.DataConfig(sprites=SPRITES),
        wandb=config.WandbConfig("disabled"),
        seed=seed,
    )
    run = config.override(run, overrides or [], "the test")
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    method = checkpoint.build_method(run, (3, 32, 32))
    torch.nn.init.normal_(method.to_posterior.weight, std=spread)
    state = State(run, method, build_optimizer(method, run.optim), wandb_id=wandb_id)
    checkpoint.save(folder / f"{name}.ckpt", state)
    return method


def call(*words: object) -> None:
    main([*map(str, words), "--device", "cpu"])


def report(folder, name: str = "probe") -> dict:
    return json.loads((folder / name / "probe.json").read_text())
