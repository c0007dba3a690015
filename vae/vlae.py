"""VLAE: a VAE whose decoder predicts each pixel from the code and from pixels nearby; the code need
only carry what those can not tell.

Chen et al.: Variational Lossy Autoencoder, 2017 (arXiv:1611.02731). With `window: full` it is a VAE
with a PixelCNN decoder. B = images, C H W = image shape, L = latent dimensions, U = feature maps.
"""

from dataclasses import dataclass, field

from torch import Tensor

from core.networks.decoders import build_decoder
from vae.autoregressive import DISCRETE, AutoregressiveImage
from vae.beta import BetaVAE, BetaVAEConfig
from vae.pixelcnn import PixelCNN
from vae.priors import PriorConfig
from vae.window import Window


@dataclass
class VLAEConfig(BetaVAEConfig):
    prior: PriorConfig = field(default_factory=lambda: PriorConfig("flow"))
    # full | N (masked 3x3 convolutions) | AxB (A wide, B rows above): the pixels that the decoder
    # reads
    window: str = "6"
    context: str = "pixels"  # pixels | grey | coarse: how it reads them
    scale: int = 1  # sides of a cell of a coarse context, in pixels
    features: int = 4  # maps that the decoder emits for the PixelCNN
    pixel_width: int = 12  # channels of the PixelCNN
    pixel_blocks: int = 4  # its residual 1x1 blocks

    def __post_init__(self) -> None:
        super().__post_init__()
        Window.parse(self.window, self.context, self.scale)
        for key, least in (("features", 1), ("pixel_width", 1), ("pixel_blocks", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"{key}: must be {least} or more, got {getattr(self, key)}")
        if self.likelihood not in DISCRETE:
            raise ValueError(
                f"likelihood: pixels predicted one by one are discrete: {', '.join(DISCRETE)},"
                f" not '{self.likelihood}'"
            )


class VLAE(BetaVAE):
    """A VAE with p(x|z) = prod_i p(x_i | earlier values in the window of i, u(z)), u(z) [B, U, H,
    W] the decoder's feature maps.

    What the window can tell of a pixel costs nothing in the code. With every earlier pixel in sight
    it can tell all, and then a code of rate 0 is a minimum of D + R (the collapse); a small window
    leaves the code what is farther apart (Chen et al. 2017, section 3).
    """

    Config = VLAEConfig

    def __init__(self, config: VLAEConfig, shape: tuple[int, int, int]):
        super().__init__(config, shape)
        window = Window.parse(config.window, config.context, config.scale)
        self.decoder = build_decoder(
            config.decoder, config.latent, (config.features, *shape[1:]), config.width
        )
        self.pixelcnn = PixelCNN(
            shape,
            window,
            self.pixels.channels,
            config.pixel_width,
            config.pixel_blocks,
            config.features,
        )

    def likelihood(self, z: Tensor) -> AutoregressiveImage:
        return AutoregressiveImage(self.pixelcnn, self.pixels, self.decoder(z))
