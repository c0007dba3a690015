"""BYOL: an encoder and a predictor read one view, and predict the code of the other view. A slow
copy of the encoder computes that code.

Grill et al.: Bootstrap Your Own Latent, 2020 (arXiv:2006.07733). BYOL has no negatives and no
critic of its own. So the information probe uses only the common critic, which it trains on the
features. B = images on this process, P = projection dimensions.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from torch import Tensor, nn

from contrastive.momentum import follow, slow_copy
from core.batch import Batch, Output, at_least_float32
from core.checks import at_least, one_of, share
from core.method import Method
from core.networks.backbones import STEMS, Backbone


@dataclass
class BYOLConfig:
    backbone: str = "small"  # small | what_where | the name of a timm model
    stem: str = "cifar"  # cifar | imagenet: the first layers of a timm backbone
    projection: int = 128  # dimensions of the codes
    hidden: int = 512  # width of the projection and the prediction head
    # momentum m at the start: in each step, target <- m target + (1 - m) online; m rises to 1
    momentum: float = 0.99

    def __post_init__(self) -> None:
        one_of(self, stem=STEMS)
        at_least(self, projection=1, hidden=1)
        share(self, "momentum")


class BYOL(Method):
    """Probes read the features of the trained (online) backbone."""

    Config = BYOLConfig
    only_features = True

    def __init__(self, config: BYOLConfig, shape: tuple[int, int, int]):
        super().__init__(config, shape)
        backbone = Backbone(config.backbone, shape, config.stem)
        head = BYOLProjectionHead(backbone.dim, config.hidden, config.projection)
        self.online = nn.ModuleDict({"backbone": backbone, "head": head})
        self.predictor = BYOLPredictionHead(config.projection, config.hidden, config.projection)
        self.target = slow_copy(self.online)

    def forward(self, batch: Batch) -> Output:
        views = batch.views[:2]
        first, second = (self.in_micro_batches(self._predict, view)[0] for view in views)
        with torch.no_grad():
            target = [self.in_micro_batches(self._aim, view)[0] for view in views]
        loss = (distance(first, target[1]) + distance(second, target[0])) / 2
        return Output(loss, {"byol": loss.detach()})

    def _predict(self, view: Tensor) -> tuple[Tensor, ...]:
        return (self.predictor(self.online["head"](self.online["backbone"](view))),)

    def _aim(self, view: Tensor) -> tuple[Tensor, ...]:
        return (self.target["head"](self.target["backbone"](view)),)

    def after_step(self, progress: float) -> None:
        """Move the target towards the online encoder."""
        follow(self.target, self.online, self.config.momentum, progress)

    def embed(self, x: Tensor) -> Tensor:
        return self.online["backbone"](x)


def distance(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean of |p - t|^2 = 2 - 2 cos(p, t) over rows p, t [B, P] scaled to unit length; a
    scalar.
    """
    p, t = (F.normalize(at_least_float32(x), dim=1) for x in (prediction, target))
    return (2 - 2 * (p * t).sum(1)).mean()
