"""The checkpoints of `twobounds selection`: four methods on two data sets, from barely trained to
well trained, with different temperatures, widths, betas and augmentations. Imports nothing heavy.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

Settings = Mapping[str, object]

SIZES = {"train": 4096, "validation": 1024, "test": 2048}
SETS = ("sprites", "mnist")
PROBES = "linear,knn,information,geometry,rate"
# every run: one validation at the end, no W&B
COMMON = ("wandb=disabled", "trainer.save_every=1000", "optim.batch_size=128")
SIMCLR: tuple[Settings, ...] = (
    *({"epochs": epochs} for epochs in (1, 2, 5)),
    *({"epochs": 2, "temperature": t} for t in (0.03, 0.5, 1.0)),
    {"epochs": 2, "projection": 8},
)
MOCO: tuple[Settings, ...] = (
    *({"epochs": epochs} for epochs in (1, 3)),
    {"epochs": 3, "temperature": 0.5},
    {"epochs": 3, "projection": 16},
)
VICREG: tuple[Settings, ...] = (
    *({"epochs": epochs} for epochs in (1, 3)),
    {"epochs": 3, "projection": 64},
)
VAE: tuple[Settings, ...] = (
    *({"epochs": 3, "beta": beta} for beta in (0.1, 1.0, 10.0)),
    {"epochs": 8, "beta": 1.0},
    {"epochs": 3, "beta": 1.0, "width": 8},
    {"epochs": 3, "beta": 1.0, "latent": 4},
)
# a stronger augmentation than the one that is probed: crops from 8 % of the area, flips
STRONG: Settings = {"epochs": 3, "augment": "simclr"}
GRID: dict[str, dict[str, tuple[Settings, ...]]] = {
    "sprites": {"simclr": SIMCLR, "moco": MOCO, "vicreg": VICREG, "beta_vae": VAE},
    "mnist": {
        "simclr": (*SIMCLR[:-1], STRONG),
        "moco": (*MOCO[:-1], STRONG),
        "vicreg": VICREG,
        "beta_vae": VAE,
    },
}
QUICK = {"simclr": SIMCLR[:4], "moco": MOCO[:1], "vicreg": VICREG[:1], "beta_vae": VAE[:2]}
KEYS = {
    "epochs": "optim.epochs",
    "temperature": "model.temperature",
    "projection": "model.projection",
    "width": "model.width",
    "latent": "model.latent",
    "beta": "model.rate.beta",
    "augment": "data.augment",
}


class Recipe(NamedTuple):
    """One run of the study."""

    name: str  # of its folder
    config: str  # a packaged one
    words: list[str]  # overrides


def recipes(sets: list[str], mnist: Path, quick: bool) -> list[Recipe]:
    """The runs on these data sets; `mnist` is the root of the small MNIST."""
    sizes = {key: count // 8 for key, count in SIZES.items()} if quick else SIZES
    grid = {"sprites": QUICK} if quick else {name: GRID[name] for name in sets}
    made = [
        [
            _recipe(data, method, changed, mnist, sizes, "quick_" if quick else "")
            for method, settings in methods.items()
            for changed in settings
        ]
        for data, methods in grid.items()
    ]
    # the data sets in turn, so that an interrupted study has runs of both
    return [recipe for turn in itertools.zip_longest(*made) for recipe in turn if recipe]


def _recipe(
    data: str, method: str, changed: Settings, mnist: Path, sizes: dict[str, int], mark: str
) -> Recipe:
    named = ",".join(f"{key}={value}" for key, value in changed.items())
    words = [f"{KEYS[key]}={value}" for key, value in changed.items()]
    words += [f"trainer.validate_every={changed['epochs']}", *COMMON]
    words += _of_data(data, method, changed, mnist, sizes)
    config = "vicreg_sprites" if method == "vicreg" else f"{method}_{data}"
    return Recipe(f"{mark}{data}_{method},{named}", config, words)


def _of_data(
    data: str, method: str, changed: Settings, mnist: Path, sizes: dict[str, int]
) -> list[str]:
    """The keys of the data, and those of the optimiser that depend on the number of images."""
    queue = ["model.queue=1024", "model.momentum=0.97"] if method == "moco" else []
    if data == "sprites":
        return [*queue, *(f"data.sprites.{key}={count}" for key, count in sizes.items())]
    words = [*queue, "data.name=mnist", f"data.root={mnist}", "data.probe_augment=crop"]
    words += [f"data.validation={sizes['validation']}", "optim.warmup_epochs=0.2"]
    if method != "beta_vae":
        words += ["optim.lr=2e-3"] + ([] if "augment" in changed else ["data.augment=crop"])
    return words
