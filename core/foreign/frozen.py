"""A foreign encoder, and the data that a command line names, as a `Frozen` for the probes."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from core.data.source import eval_sampler
from core.errors import UserError
from core.foreign import networks
from core.foreign.encoder import Encoder, EncoderConfig
from core.foreign.networks import Network
from core.frozen import Frozen
from core.run import config
from core.run.wandb_config import WandbConfig
from core.trust import code_of

ENCODER = "core.foreign.encoder.Encoder"
DATA = (
    "name the data, such as data.name=folder data.root=FOLDER or data.name=cifar10 data.root=/data"
)


class Asked(NamedTuple):
    """What a command line says about a foreign encoder."""

    timm: str = ""  # a timm name
    torch: str = ""  # package.module:function
    folder: Path | None = None  # an export, or a folder of timm's hub layout
    weights: Path | None = None
    prefix: str | None = None  # of the encoder's keys in the weights file
    random: bool = False  # no weights: a random network is the baseline
    size: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    crop: float = 0.0  # 0 = the network's own
    pool: str = ""
    out: Path | None = None  # a folder for reports and features


class Opened(NamedTuple):
    """An encoder, the path that stands for its checkpoint, and remarks for the user."""

    path: Path
    frozen: Frozen
    remarks: list[str]


def open_encoder(asked: Asked, overrides: list[str], **options: Any) -> Opened:
    """The encoder with its data, checked on two images. Raises `UserError`."""
    _refuse(asked)
    if not any(word.partition("=")[0] == "data.name" for word in overrides):
        raise UserError(f"a foreign encoder has no data of its own; {DATA}")
    run = config.override(blank(ENCODER, EncoderConfig()), overrides, "the command line")
    images = Frozen(torch.nn.Identity(), run).source("test")  # type: ignore[arg-type]
    network = _network(asked, images.shape[0], run.seed)
    settings = _settings(asked, network.config)
    if images.shape[0] not in (1, settings.channels):
        raise UserError(
            f"data: its images have {images.shape[0]} channels, but {settings.network} reads"
            f" {settings.channels}; name other data, or data.grey=true"
        )
    digest = _digest(asked, network, settings)
    settings = dataclasses.replace(settings, weights=digest)
    method = Encoder(settings, images.shape, network.module).requires_grad_(False)
    random = ", random weights" if asked.random else ""
    run = dataclasses.replace(run, model=settings, method=f"{settings.network}{random}")
    path = _place(asked)
    frozen = Frozen(method, run, weights=digest, folder=path.parent / "features", **options)
    try:
        batch = next(
            images.batches(eval_sampler(len(images), run.seed, 2, frozen.device, most=2), 1)
        )
        with torch.no_grad():
            found = method.embed(batch.views[0])
    except (RuntimeError, AssertionError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{settings.network}: can not encode images of side {images.shape[1]}"
            f" ({(str(error).splitlines() or [type(error).__name__])[0]}); set --size or --pool"
        ) from None
    return Opened(
        path, frozen, [*network.remarks, description(settings, images.shape, found.shape[1])]
    )


def blank(method: str, model: Any) -> config.RunConfig:
    """The config of an encoder that no run of this project trained."""
    logging = WandbConfig(mode="disabled")
    return config.RunConfig(method=method, model=model, folder=".", wandb=logging)


def description(settings: EncoderConfig, shape: tuple[int, int, int], dim: int) -> str:
    """The input and the features in words."""
    side = settings.size or shape[1]
    resized = ""
    if settings.resizes(shape[1], shape[2]):
        height, width = settings.sides(shape[1], shape[2])
        resized = f", from {shape[1]}x{shape[2]} resized to {height}x{width}"
        resized += f" ({settings.interpolation})"
        if (height, width) != (side, side):
            resized += ", centre cut out"
    mean, std = (" ".join(f"{x:.3g}" for x in values) for values in (settings.mean, settings.std))
    read = f"input {settings.channels}x{side}x{side}{resized}"
    return f"{read}, mean {mean}, std {std}; {dim} features"


def _refuse(asked: Asked) -> None:
    """Raise `UserError` for options that do not fit together."""
    if bool(asked.timm) + bool(asked.torch) + bool(asked.folder) != 1:
        raise UserError("give one encoder: --timm NAME, or --torch package.module:function")
    if asked.random and (asked.weights or not asked.timm):
        raise UserError("--random: use it only with --timm and without --weights")
    if asked.timm and not (asked.weights or asked.random):
        raise UserError(
            f"--timm {asked.timm}: without --weights FILE, its weights would be random; give the"
            " file, or add --random if a random network is meant"
        )


def _network(asked: Asked, channels: int, seed: int) -> Network:
    if asked.folder:
        return networks.from_folder(asked.folder)
    if asked.torch:
        return networks.from_function(asked.torch, asked.weights, asked.prefix)
    networks.architecture(asked.timm)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return networks.from_timm(asked.timm, asked.weights, asked.prefix, asked.size, channels)


def _settings(asked: Asked, own: EncoderConfig) -> EncoderConfig:
    """The network's own input, changed by the options."""
    parts = {key: list(getattr(asked, key)) for key in ("mean", "std")}
    given: dict[str, Any] = {key: value for key, value in parts.items() if value}
    given |= {key: getattr(asked, key) for key in ("size", "crop", "pool") if getattr(asked, key)}
    try:
        return dataclasses.replace(own, **given)
    except ValueError as error:
        raise UserError(f"--{error}") from None


def _digest(asked: Asked, network: Network, settings: EncoderConfig) -> str:
    """SHA-256 in hex of everything that decides the features: settings, tensors, and for a user's
    own function its code.
    """
    total = hashlib.sha256(json.dumps(dataclasses.asdict(settings), sort_keys=True).encode())
    for name, tensor in network.module.state_dict().items():
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    if asked.torch:
        total.update(code_of(asked.torch.partition(":")[0]).encode())
    return total.hexdigest()


def _place(asked: Asked) -> Path:
    """The path that stands for the checkpoint: reports and features are kept beside it."""
    if asked.out or asked.folder:
        return (asked.out or asked.folder or Path()) / "last.ckpt"
    if asked.weights:
        return asked.weights
    name = f"{asked.timm}-random" if asked.timm else asked.torch.replace(":", "-")
    return Path("runs") / name / "last.ckpt"
