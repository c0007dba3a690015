"""A training epoch of a VAE with MLPs on 28x28 images: ours against pythae's with the same
layers.
"""

import importlib.util
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from core.networks.decoders import MLPDecoder
from scripts.benches.contest import Contest
from scripts.benches.loop import epoch, ours_in
from vae.networks import MLPEncoder

IMAGES, BATCH, WIDTH, LATENT, SHAPE = 16_384, 128, 512, 40, (1, 28, 28)


def contests(device: torch.device) -> Iterator[Contest]:
    """128 steps of 128 binary images, 784-512-512-40-512-512-784; none if pythae is not installed.

    In the first contest both sides run in float32. In the second, our code runs in bf16 and pythae
    in float32.
    """
    if not importlib.util.find_spec("pythae"):
        print("vae: pythae is not installed (pip install --no-deps pythae)")
        return
    overrides = [f"optim.batch_size={BATCH}", "optim.warmup_epochs=0"]
    overrides += [f"model.width={WIDTH}", f"model.latent={LATENT}"]

    def same(mine: float, theirs: float) -> str:
        said = f"mean loss of the first epoch {mine:.1f} and {theirs:.1f} nats"
        assert abs(mine - theirs) < 0.1 * theirs, said
        return said

    for precision in ("", "bf16-mixed"):
        ours = epoch("beta_vae_mnist", overrides, digits(), device, precision)
        name = f"VAE, MLP on 28x28, {IMAGES // BATCH} steps of {BATCH}{ours_in(precision)}"
        theirs, target = pythae_epoch(digits(), device), None if precision else 2.0
        yield Contest(name, ours, "pythae BaseTrainer", theirs, same, target)


def digits() -> Tensor:
    """Binary pictures that can be learned, uint8 0 or 255: thick strokes between random points."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.rand(IMAGES, 2, 2, generator=generator) * 27
    place = torch.cartesian_prod(torch.arange(28.0), torch.arange(28.0))[None]  # [1, 784, 2]
    along = torch.linspace(0, 1, 16)[None, :, None]
    points = ends[:, :1] * along + ends[:, 1:] * (1 - along)
    near = torch.cdist(place.expand(IMAGES, -1, -1), points).amin(2) < 2
    return 255 * near.to(torch.uint8).view(-1, *SHAPE)


def pythae_epoch(images: Tensor, device: torch.device) -> Any:
    """One epoch of pythae's own trainer, without its files; each call continues the training."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = MLPEncoder(SHAPE, WIDTH)
            self.mean, self.log_covariance = (nn.Linear(WIDTH, LATENT) for _ in range(2))

        def forward(self, x: Tensor) -> Any:
            h = self.net(x)
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_covariance(h))

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = MLPDecoder(LATENT, SHAPE, WIDTH)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.net(z).sigmoid())

    given = VAEConfig(input_dim=SHAPE, latent_dim=LATENT, reconstruction_loss="bce")
    model = VAE(given, Encoder(), Decoder())
    data = BaseDataset(images.float() / 255, torch.zeros(len(images)))
    with tempfile.TemporaryDirectory() as folder:  # it makes a folder even if it writes nothing
        given = BaseTrainerConfig(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            num_epochs=1,
            learning_rate=5e-4,  # our lr of 1e-3 is per 256 images
            optimizer_cls="Adam",
            no_cuda=device.type == "cpu",
        )
        trainer = BaseTrainer(model, train_dataset=data, training_config=given)
        trainer.prepare_training()
    return lambda: float(trainer.train_step(1))
