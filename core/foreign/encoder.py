"""A frozen encoder that was not trained here, as a `Method` without a loss.

B = images, C H W = image shape, S = side of the network's input, D = feature dimensions.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.batch import Batch, Output, as_float
from core.checks import at_least, one_of
from core.errors import UserError
from core.method import Method

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
POOLS = ("", "avg", "max", "cls", "cls+avg")


@dataclass
class EncoderConfig:
    """How images reach the network, and how features leave it."""

    network: str = ""  # a timm name, or package.module:function
    size: int = 0  # side to which images are resized; 0 = as they are
    channels: int = 3
    mean: list[float] = field(default_factory=lambda: [0.0])  # of images in [0, 1]
    std: list[float] = field(default_factory=lambda: [1.0])
    interpolation: str = "bicubic"
    pool: str = ""  # avg | max | cls | cls+avg of the last map or tokens; "" = the network's own
    weights: str = ""  # their digest

    def __post_init__(self) -> None:
        at_least(self, size=0, channels=1)
        one_of(self, interpolation=INTERPOLATIONS, pool=POOLS)
        for key in ("mean", "std"):
            values = getattr(self, key)
            if len(values) not in (1, self.channels) or not all(map(math.isfinite, values)):
                raise ValueError(f"{key}: give 1 or {self.channels} finite numbers, got {values}")
        if min(self.std) <= 0:
            raise ValueError(f"std: must be above 0, got {self.std}")


class Encoder(Method):
    """Images [B, C, H, W], uint8 or in [0, 1], to the features [B, D] of `network`:

    pool(network((resize(x) - mean) / std))
    """

    Config = EncoderConfig
    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig, shape: tuple[int, int, int], network: nn.Module):
        super().__init__(config, shape)
        self.network = network
        for name in ("mean", "std"):
            values = torch.tensor(getattr(config, name)).view(-1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, batch: Batch) -> Output:
        raise NotImplementedError("a foreign encoder is not trained")

    def embed(self, x: Tensor) -> Tensor:
        return self.features(self.prepared(x))

    def prepared(self, x: Tensor) -> Tensor:
        """Images as the network reads them, [B, channels, S, S]."""
        x, config = as_float(x), self.config
        if x.shape[1] == 1 and config.channels > 1:
            x = x.expand(-1, config.channels, -1, -1)
        if config.size and x.shape[2:] != (config.size, config.size):
            smooth: dict[str, Any] = {"align_corners": False, "antialias": True}
            more = {} if config.interpolation == "nearest" else smooth
            x = F.interpolate(x, (config.size, config.size), mode=config.interpolation, **more)
            x = x.clamp(0, 1)  # a bicubic curve may leave the range
        return (x - self.mean) / self.std

    def features(self, x: Tensor) -> Tensor:
        """What the network makes of prepared images, [B, D]."""
        if not self.config.pool:
            made = self.network(x)
        else:
            made = pooled(self.config.pool, self.network, self.network.forward_features(x))  # type: ignore[operator]
        if not isinstance(made, Tensor) or made.ndim != 2 or len(made) != len(x):
            given = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise UserError(
                f"{self.config.network}: it gives {given} for {len(x)} images; probes need features"
                f" [{len(x)}, D]; with a timm network, name a pooling by --pool"
            )
        return made


def pooled(pool: str, network: nn.Module, made: Tensor) -> Tensor:
    """Tokens [B, N, D] or maps [B, D, H, W] (or [B, H, W, D]) to features."""
    dim = getattr(network, "num_features", made.shape[1])
    if made.ndim == 4:
        if made.shape[1] != dim and made.shape[3] == dim:
            made = made.permute(0, 3, 1, 2)
        made, special = made.flatten(2).mT, 0
    else:
        special = int(getattr(network, "num_prefix_tokens", 0))  # type: ignore[arg-type]
    if "cls" in pool and not special:
        raise UserError("--pool: the network has no class token; use avg or max")
    parts = {
        "cls": lambda: made[:, 0],
        "avg": lambda: made[:, special:].mean(1),
        "max": lambda: made[:, special:].amax(1),
    }
    return torch.cat([parts[name]() for name in pool.split("+")], 1)
