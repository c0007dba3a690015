"""What every contrastive method is asked: its encoder and its critic."""

import math
from dataclasses import dataclass

from core.networks.backbones import STEMS


@dataclass
class ContrastiveConfig:
    backbone: str = "small"  # "small" or a timm name
    stem: str = "cifar"  # cifar | imagenet
    projection: int = 128
    hidden: int = 512  # width of the projection head
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.stem not in STEMS:
            raise ValueError(f"stem: '{self.stem}' is none of {', '.join(STEMS)}")
        for key in ("projection", "hidden"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: must be 1 or more, got {getattr(self, key)}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature: must be above 0, got {self.temperature}")
