"""SimCLR: one encoder for both views; all other views of the batch are negatives.

Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual
Representations, 2020. B = images on this process, D = features, P = projection dimensions.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from contrastive.config import ContrastiveConfig
from core.batch import Batch, Encoded, Output, at_least_float32
from core.distributed import world
from core.information.geometry import alignment
from core.information.losses import in_batch_loss, nt_xent_and_in_batch
from core.method import Method
from core.networks.backbones import Backbone
from core.networks.heads import ProjectionHead


@dataclass
class SimCLRConfig(ContrastiveConfig):
    """SimCLR needs only the keys of the encoder, the projection head and the temperature."""


class SimCLR(Method):
    """Trains with NT-Xent. Probes read the backbone's features, before the projection head."""

    Config = SimCLRConfig

    def __init__(self, config: SimCLRConfig, shape: tuple[int, int, int]):
        super().__init__(config, shape)
        self.temperature = config.temperature
        self.backbone = Backbone(config.backbone, shape, config.stem)
        self.head = ProjectionHead(self.backbone.dim, config.hidden, config.projection, True)

    def forward(self, batch: Batch) -> Output:
        first, second = self.in_micro_batches(self._project_both, *batch.views[:2])
        loss, one_sided = nt_xent_and_in_batch(first, second, self.temperature)
        n = len(first) * world()
        metrics = {
            "nt_xent": loss.detach(),
            # no bound, even on held-out images: the two views of a pair are not independent
            "train_bound": math.log(2 * n - 1) - loss.detach(),
            # This has the form of a valid bound. In training it is not a bound, because the critic
            # has seen these images.
            "in_batch_bound": math.log(n) - one_sided,
            "alignment": alignment(first.detach(), second.detach()),
        }
        return Output(loss, metrics)

    def plain_metrics(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """The metrics of a variant whose loss gives no bound, computed from unit codes [B, P] of
        two views.
        """
        one_sided = in_batch_loss(first, second, self.temperature)
        return {
            "in_batch_bound": math.log(len(first) * world()) - one_sided,
            "alignment": alignment(first.detach(), second.detach()),
        }

    def project(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to unit-length codes [B, P]."""
        codes = self.encode(x).codes
        assert codes is not None
        return codes

    def _project_both(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        # one pass, so that both views share batch statistics
        return self.project(torch.cat([first, second])).chunk(2)

    def codes(self, query_view: Tensor, key_view: Tensor) -> tuple[Tensor, Tensor]:
        return self.project(query_view), self.project(key_view)

    def encode(self, x: Tensor, key: bool = False) -> Encoded:
        features = self.backbone(x)
        return Encoded(features, F.normalize(at_least_float32(self.head(features)), dim=1))

    def embed(self, x: Tensor) -> Tensor:
        return self.backbone(x)
