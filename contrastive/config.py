"""The keys that SimCLR, DCL, SupCon, MoCo and MoCo v3 share: those of encoder and critic."""

from dataclasses import dataclass

from core.checks import above_zero, at_least, one_of
from core.networks.backbones import STEMS


@dataclass
class ContrastiveConfig:
    backbone: str = "small"  # small | what_where | the name of a timm model
    stem: str = "cifar"  # cifar | imagenet: the first layers of a timm backbone
    projection: int = 128  # dimensions of the codes
    hidden: int = 512  # width of the projection head
    temperature: float = 0.1  # the scores are cosines divided by it

    def __post_init__(self) -> None:
        one_of(self, stem=STEMS)
        at_least(self, projection=1, hidden=1)
        above_zero(self, "temperature")
