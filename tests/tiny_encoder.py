"""A frozen encoder without a network, on a few random images."""

import torch

from core.batch import Encoded
from core.data.images import Arrays, Facts
from core.data.views import policy
from core.frozen import Frozen
from core.run import config


class Encoder:
    """Three pixels as features; codes that say which of the two networks made them."""

    shape = (3, 16, 16)

    def embed(self, x):
        return x.flatten(1)[:, 60:63].float()

    def encode(self, x, key=False):
        features = self.embed(x)
        return Encoded(features, features + (1000 if key else 0))


def frozen(folder, *, weights="w", pixels=0, labels=0, run_seed=0, seed=0, augment="crop", **more):
    def source(split, augmented):
        generator = torch.Generator().manual_seed(pixels + 7 * len(split))
        images = torch.randint(256, (12, 3, 16, 16), generator=generator, dtype=torch.uint8)
        y = (torch.arange(12)[:, None] + labels) % 2
        views = policy(augment if augmented else "none", 16)
        return Arrays(images, y, {"class": 2}, views, Facts("arrays", split))

    run = config.RunConfig(method="x", folder="x", seed=run_seed)
    run.data = config.DataConfig(augment=augment)
    return Frozen(Encoder(), run, weights=weights, seed=seed, folder=folder, sources=source, **more)
