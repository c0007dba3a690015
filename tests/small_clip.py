"""A small CLIP, trained for a few steps on captioned sprites."""

import torch

from contrastive.clip import CLIP, CLIPConfig
from core.data.captioned_sprites import CaptionedSprites, CaptionedSpritesConfig
from core.data.source import train_sampler
from core.frozen import Frozen
from core.run import config


def frozen_clip(steps: int = 0, **keys: object) -> Frozen:
    """A small CLIP, trained for some steps on sprites of two shapes with four colours."""
    sizes = {"shapes": 2, "colours": 4, "sizes": 1, "grid": 1}
    data = {"train": 256, "validation": 64, "test": 96} | sizes | keys
    values = {"name": "captioned_sprites", "captioned_sprites": data}
    model = {
        "vocabulary": 64,
        "context": 16,
        "width": 16,
        "layers": 1,
        "heads": 2,
        "projection": 16,
    }
    run = config.from_dict(
        {"method": "contrastive.clip.CLIP", "folder": "none", "model": model, "data": values},
        "test",
    )
    source = CaptionedSprites(CaptionedSpritesConfig(**data), "train", 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = CLIP(CLIPConfig(**model), (3, 32, 32))
    method.learn_words(source.captions(256))
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    for batch in source.batches(train_sampler(256, 64, 0, 0, steps), 1):
        optimizer.zero_grad()
        method(batch).loss.backward()
        optimizer.step()
    return Frozen(method, run)
