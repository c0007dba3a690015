"""Contrastive encoders: similar codes for views of one image, different codes for other images.

>>> import torch
>>> from contrastive import MoCo, SimCLR
>>> images = torch.rand(4, 3, 32, 32)  # [B, C, H, W] in [0, 1], or uint8
>>> simclr = SimCLR(SimCLR.Config(projection=64), shape=(3, 32, 32)).eval()
>>> features, codes = simclr.encode(images)  # [B, D]; unit-length codes [B, P]
>>> codes.shape
torch.Size([4, 64])
>>> moco = MoCo(MoCo.Config(queue=256), shape=(3, 32, 32)).eval()
>>> query, key = moco.codes(images, images)  # from the query encoder and the momentum encoder
>>> key.shape
torch.Size([4, 128])
"""

from typing import TYPE_CHECKING

from core.lazy import exports

if TYPE_CHECKING:
    from contrastive.moco import MoCo as MoCo
    from contrastive.simclr import SimCLR as SimCLR

__getattr__, __dir__ = exports(
    __name__, {"MoCo": "contrastive.moco", "SimCLR": "contrastive.simclr"}
)
