"""SimCLR: both views of an image through one encoder, every other view of the batch a negative.

Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual
Representations, 2020. B = images on this process, D = features, P = projection dimensions.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor

from contrastive.config import ContrastiveConfig
from core.batch import Batch, Encoded, Output, at_least_float32
from core.distributed import world
from core.information.geometry import alignment
from core.information.losses import nt_xent_and_in_batch
from core.method import Method
from core.networks.backbones import Backbone


@dataclass
class SimCLRConfig(ContrastiveConfig):
    """An encoder, a head and a temperature are all that SimCLR has."""


class SimCLR(Method):
    """Trains with NT-Xent; probes read the backbone's features, before the projection head."""

    Config = SimCLRConfig

    def __init__(self, config: SimCLRConfig, shape: tuple[int, int, int]):
        super().__init__(config, shape)
        self.temperature = config.temperature
        self.backbone = Backbone(config.backbone, shape, config.stem)
        self.head = SimCLRProjectionHead(self.backbone.dim, config.hidden, config.projection)

    def forward(self, batch: Batch) -> Output:
        first, second = self.in_micro_batches(self._project_both, *batch.views[:2])
        loss, one_sided = nt_xent_and_in_batch(first, second, self.temperature)
        n = len(first) * world()
        metrics = {
            "nt_xent": loss.detach(),
            "train_bound": math.log(2 * n - 1)
            - loss.detach(),  # no bound even held out: the own pair's views are not independent
            "in_batch_bound": math.log(n)
            - one_sided,  # of a valid form; while training the critic has seen these images
            "alignment": alignment(first.detach(), second.detach()),
        }
        return Output(loss, metrics)

    def project(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to unit-length codes [B, P]."""
        codes = self.encode(x).codes
        assert codes is not None
        return codes

    def _project_both(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        return self.project(torch.cat([first, second])).chunk(
            2
        )  # one pass: both views share the batch statistics

    def codes(self, query_view: Tensor, key_view: Tensor) -> tuple[Tensor, Tensor]:
        return self.project(query_view), self.project(key_view)

    def encode(self, x: Tensor, key: bool = False) -> Encoded:
        features = self.backbone(x)
        return Encoded(features, F.normalize(at_least_float32(self.head(features)), dim=1))

    def embed(self, x: Tensor) -> Tensor:
        return self.backbone(x)
