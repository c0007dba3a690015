"""MoCo v3: an encoder (usually a vision transformer) and a predictor give queries. A slow copy of
the encoder, without predictor, gives keys. There is no queue.

Chen, Xie, He: An Empirical Study of Training Self-Supervised Vision Transformers, 2021
(arXiv:2104.02057). B = images on this process, N = images in the global batch, P = projection
dimensions.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lightly.models.modules import BYOLPredictionHead, MoCoProjectionHead
from torch import Tensor, nn

from contrastive.config import ContrastiveConfig
from contrastive.momentum import follow, slow_copy
from core.batch import Batch, Encoded, Output, at_least_float32
from core.checks import share
from core.distributed import world
from core.information.geometry import alignment
from core.information.losses import clip_loss
from core.method import Method
from core.networks.backbones import Backbone


@dataclass
class MoCoV3Config(ContrastiveConfig):
    backbone: str = "vit_tiny_patch16_224"  # the name of a timm model
    patch: int = 0  # side of a patch in pixels; 0 = the side in the network's name
    # momentum m at the start: in each step, key encoder <- m key encoder + (1 - m) query encoder;
    # m rises to 1
    momentum: float = 0.99
    freeze_patches: bool = True  # patch projection is not trained, which makes training more stable

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self, "momentum")
        if self.patch < 0:
            raise ValueError(f"patch: must be 0 or more, got {self.patch}")


class MoCoV3(Method):
    """Each view predicts the key of the other view among the keys of the batch:

        L = 1/2 (L(q1, k2) + L(q2, k1)),   log N - L has the form of a valid bound

    (the published loss is 4T times this). Probes read the features of the query backbone.
    """

    Config = MoCoV3Config

    def __init__(self, config: MoCoV3Config, shape: tuple[int, int, int]):
        super().__init__(config, shape)
        self.temperature = config.temperature
        patch = {"patch_size": config.patch} if config.patch else {}
        backbone = Backbone(config.backbone, shape, config.stem, **patch)
        head = MoCoProjectionHead(
            backbone.dim, config.hidden, config.projection, num_layers=3, batch_norm=True
        )
        self.query = nn.ModuleDict({"backbone": backbone, "head": head})
        self.predictor = BYOLPredictionHead(config.projection, config.hidden, config.projection)
        self.key = slow_copy(self.query)
        patches = getattr(backbone.net, "patch_embed", None)
        if config.freeze_patches and patches is not None:
            patches.requires_grad_(False)

    def forward(self, batch: Batch) -> Output:
        views = batch.views[:2]
        queries = [self.in_micro_batches(self._ask, view)[0] for view in views]
        with torch.no_grad():
            keys = [self.in_micro_batches(self._answer, view)[0] for view in views]
        pairs = ((queries[0], keys[1]), (queries[1], keys[0]))
        loss = torch.stack(
            [clip_loss(*pair, self.temperature, both=False) for pair in pairs]
        ).mean()
        metrics = {
            "infonce": loss.detach(),
            # This has the form of a valid bound: all keys come from one encoder. In training it is
            # not a bound, because the critic has seen these images.
            "in_batch_bound": math.log(len(batch.index) * world()) - loss.detach(),
            "alignment": alignment(queries[0].detach(), keys[1]),
        }
        return Output(loss, metrics)

    def _ask(self, view: Tensor) -> tuple[Tensor, ...]:
        return (self._query(self.query["backbone"](view)),)

    def _answer(self, view: Tensor) -> tuple[Tensor, ...]:
        return (_unit(self.key["head"](self.key["backbone"](view))),)

    def _query(self, features: Tensor) -> Tensor:
        return _unit(self.predictor(self.query["head"](features)))

    def after_step(self, progress: float) -> None:
        """Move the key encoder towards the query encoder."""
        follow(self.key, self.query, self.config.momentum, progress)

    def codes(self, query_view: Tensor, key_view: Tensor) -> tuple[Tensor, Tensor]:
        return self._ask(query_view)[0], self._answer(key_view)[0]

    def encode(self, x: Tensor, key: bool = False) -> Encoded:
        features = self.query["backbone"](x)
        return Encoded(features, self._answer(x)[0] if key else self._query(features))

    def embed(self, x: Tensor) -> Tensor:
        return self.query["backbone"](x)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(at_least_float32(x), dim=1)
