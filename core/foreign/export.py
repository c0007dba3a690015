"""An encoder as files that run without this project: weights, a JSON and a short loader.

A folder of an export has timm's hub layout: `config.json` and `model.safetensors`, with timm's own
keys; `load.py` imports only torch and timm. B = images, D = feature dimensions, L = latent
dimensions.
"""

import copy
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from core.errors import UserError
from core.files import write_atomically
from core.foreign.networks import CONFIG, WEIGHTS
from core.method import LatentModel, Method
from core.networks.backbones import Backbone, WhatWhereNet
from core.networks.residual import ResidualBlock
from core.run.checkpoint import Loaded

LOADER, CARD = "load.py", "README.md"
ONNX, PROGRAM = "model.onnx", "model.pt2"
TOLERANCE = 1e-5  # largest difference of an exported program, as a share of the largest feature
PLAIN: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Identity)
PLAIN += (nn.ReLU, nn.GELU, nn.ELU, nn.Flatten, nn.Unflatten)

HEAD = '''"""{about}"""

from pathlib import Path

import timm
import torch
from torch import nn

'''
RESIDUAL = """
class Residual(nn.Module):
    def __init__(self, first, second, shortcut, scale):
        super().__init__()
        self.first, self.second, self.shortcut, self.scale = first, second, shortcut, scale

    def forward(self, x):
        change = self.second(nn.functional.elu(self.first(nn.functional.elu(x))))
        if self.scale == 2:
            x = nn.functional.interpolate(x, scale_factor=2.0)
        if self.scale == -2:
            x = nn.functional.avg_pool2d(x, 2)
        return self.shortcut(x) + change

"""
WHAT_WHERE = """
class WhatWhere(nn.Module):
    def __init__(self, trunk, places, cell):
        super().__init__()
        self.trunk, self.places, self.cell = trunk, places, cell

    def forward(self, x):
        seen = self.trunk(x)
        where = nn.functional.avg_pool2d(self.places(seen), self.cell, ceil_mode=True)
        return torch.cat([seen.amax((2, 3)), where.flatten(1)], 1)

"""
LOAD = """

def load(folder=Path(__file__).parent):
    network = {kind}()
    network.load_state_dict(timm.models.load_state_dict(str(folder / "model.safetensors")))
    return network.eval()
"""
ENCODER = """
class Encoder(nn.Sequential):
    # images [B, {channels}, {height}, {width}] in [0, 1] to features [B, {dim}]
    def forward(self, x):
        return super().forward((x - 0.5) / 0.5)


def build():
{build}    return Encoder({parts})
"""
VAE = """
class VAE(nn.Module):
    def __init__(self):
        super().__init__()
{build}        self.encoder, self.to_posterior = {encoder}, {posterior}
        self.decoder = {decoder}

    def encode(self, x):  # images in [0, 1] to mean and log sigma of q(z|x), [B, {latent}] each
        mean, log_sigma = self.to_posterior(self.encoder({scaled})).chunk(2, 1)
        return mean, log_sigma.clamp(-7, 3)

    def decode(self, z):  # codes [B, {latent}] to {decoded}
        return self.decoder(z)

    def forward(self, x):
        return self.encode(x)[0]
"""


class Files(NamedTuple):
    """The content of an export, before anything is written."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    loader: str


def files(found: Loaded) -> Files:
    """What is exported of a method. `UserError` if its features do not come from a network that a
    loader can build.
    """
    method = found.method
    return _of_vae(found) if isinstance(method, LatentModel) else _of_backbone(found)


def write(folder: Path, content: Files) -> list[Path]:
    """Write the files of an export, each atomically. config.json is the last one, because it marks
    the folder as an export.
    """
    texts = {LOADER: content.loader, CONFIG: json.dumps(content.facts, indent=1) + "\n"}
    packed = save({name: x.contiguous().clone() for name, x in content.tensors.items()})
    write_atomically(folder / WEIGHTS, lambda place: place.write_bytes(packed))
    for name, text in texts.items():
        write_atomically(folder / name, lambda place, text=text: place.write_text(text))  # type: ignore[misc]
    return [folder / name for name in (WEIGHTS, *texts)]


def write_hub(folder: Path, found: Loaded, content: Files) -> Path:
    """Write a model card, after a check that timm itself loads the folder."""
    if content.facts["twobounds"].get("stem") != "imagenet":
        raise UserError(
            "--hub: timm can not build this network (only its own architectures, with their own"
            " stem); use load.py"
        )
    network = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True, num_classes=0)
    x = _images(found.method)
    with torch.no_grad():
        same = torch.equal(network.eval()(x * 2 - 1), found.method.embed(x))
    if not same:
        raise UserError("--hub: timm's network of the folder gives other features; use load.py")
    words = {"library_name": "timm", "tags": ["image-feature-extraction", "timm"]}
    card = f"---\n{json.dumps(words)}\n---\n\n# {folder.name}\n\n{_about(found)}\n\n```python\n"
    card += 'import timm\n\nnetwork = timm.create_model("hf-hub:NAME", pretrained=True)\n```\n'
    write_atomically(folder / CARD, lambda place: place.write_text(card))
    return folder / CARD


class Embedding(nn.Module):
    """Images in [0, 1] to features."""

    def __init__(self, method: Method):
        super().__init__()
        self.method = method

    def forward(self, x: Tensor) -> Tensor:
        return self.method.embed(x)


def write_program(path: Path, method: Method) -> Path:
    """The encoder as a program of torch.export, for batches of 1 to 4,096 images. Its features are
    compared with the method's.
    """
    x, model = _images(method), Embedding(method).eval()

    def make(place: Path) -> None:
        batch = {"x": {0: torch.export.Dim("batch", min=1, max=4096)}}
        program = torch.export.export(model, (x,), dynamic_shapes=batch)
        with open(place, "wb") as file:
            torch.export.save(program, file)

    return _converted(
        "--program", path, make, lambda: torch.export.load(path).module()(x[:2]), model, x
    )


def require_onnx() -> None:
    """`UserError` if a package that `write_onnx` needs is not installed."""
    for name in ("onnx", "onnxscript"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise UserError(
                f"--onnx: it needs {name}; pip install onnx onnxscript onnxruntime"
            ) from None


def write_onnx(path: Path, method: Method) -> Path:
    """The encoder as ONNX, for batches of 1 to 4,096 images. If onnxruntime is installed, the
    features are compared with the method's.
    """
    x, model = _images(method), Embedding(method).eval()

    def make(place: Path) -> None:
        batch = {"x": {0: torch.export.Dim("batch", min=1, max=4096)}}
        made = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=batch, verbose=False)
        made.save(place)  # type: ignore[union-attr]

    def run() -> Tensor | None:
        try:
            import onnxruntime  # type: ignore[import-not-found]
        except ImportError:
            return None
        session = onnxruntime.InferenceSession(str(path))
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x[:2].numpy()})[0])

    return _converted("--onnx", path, make, run, model, x)


def _converted(
    key: str,
    path: Path,
    make: Callable[[Path], None],
    run: Callable[[], Tensor | None],
    model: nn.Module,
    x: Tensor,
) -> Path:
    """Write a program, run it, and keep it only if it gives the method's features."""
    try:
        write_atomically(path, make)
        made = run()
    except UserError:
        raise
    except Exception as error:  # torch's converters raise many kinds
        path.unlink(missing_ok=True)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{key}: this network can not be converted ({reason})") from None
    with torch.no_grad():
        own = model(x[:2])
    if made is not None and (made - own).abs().max() > TOLERANCE * own.abs().max():
        path.unlink(missing_ok=True)
        raise UserError(f"{key}: the converted network gives other features, and is not kept")
    return path


def _images(method: Method) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(4, *method.shape, generator=generator)


def _about(found: Loaded) -> str:
    return f"The encoder of {found.run.method} after {found.step} steps on {found.run.data.name}."


def _facts(found: Loaded, name: str, dim: int, kind: str, stem: str) -> dict[str, Any]:
    """The content of config.json: what timm reads, and what only this project reads."""
    channels, height, width = found.method.shape
    arguments: dict[str, Any] = {"in_chans": channels}
    if name.startswith(("vit", "deit", "swin")):
        arguments["img_size"] = [height, width]
    if patch := getattr(found.run.model, "patch", 0):
        arguments["patch_size"] = patch
    half = [0.5] * channels
    given = {"input_size": [channels, height, width], "mean": half, "std": half, "num_classes": 0}
    given |= {"interpolation": "bilinear", "crop_pct": 1.0, "fixed_input_size": True}
    ours = {"kind": kind, "stem": stem, "method": found.run.method, "step": found.step}
    ours |= {"checkpoint": found.digest}
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": dim,
        "model_args": arguments,
        "pretrained_cfg": given,
        "twobounds": ours,
    }


def _of_backbone(found: Loaded) -> Files:
    method, x = found.method, _images(found.method)
    with torch.no_grad():
        features = method.embed(x)
        nets = [
            (name, module)
            for name, module in method.named_modules()
            if isinstance(module, Backbone) and torch.equal(module(x), features)
        ]
    if not nets:
        raise UserError(
            f"{found.run.method}: its features are not those of a core.networks.backbones.Backbone,"
            " so there is no loader for it; --program and --onnx export any encoder"
        )
    backbone = nets[0][1]
    name, stem, lines, parts = _timm(found, backbone)
    facts = _facts(found, name, features.shape[1], "backbone", stem)
    channels, height, width = method.shape
    shape = {"channels": channels, "height": height, "width": width, "dim": features.shape[1]}
    text = HEAD.format(about=_about(found)) + (WHAT_WHERE if name == "what_where" else "")
    text += ENCODER.format(build="".join(f"    {line}\n" for line in lines), parts=parts, **shape)
    text += LOAD.format(kind="build")
    tensors = backbone.net.state_dict()
    if name != "small":
        text = text.replace("network.load_state_dict", "network[0].load_state_dict")
    return Files(tensors, facts, text)


def _timm(found: Loaded, backbone: Backbone) -> tuple[str, str, list[str], str]:
    """Architecture, stem, the lines that build the network, and the parts of the encoder."""
    name = str(getattr(found.run.model, "backbone", ""))
    if name == "small":
        layers = list(backbone.net.children())
        maps = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.Flatten))
        texts = [_source(layer, rows=number > maps) for number, layer in enumerate(layers)]
        parts = ",\n        ".join(texts)
        return name, "small", [], f"\n        {parts},\n    "
    if isinstance(backbone.net, WhatWhereNet):
        return name, "small", [], _source(backbone.net)
    conv, pool = getattr(backbone.net, "conv1", None), getattr(backbone.net, "maxpool", None)
    cifar = (
        isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3) and isinstance(pool, nn.Identity)
    )
    channels, height, width = found.method.shape
    sized = f", img_size=({height}, {width})" if name.startswith(("vit", "deit", "swin")) else ""
    patch = getattr(found.run.model, "patch", 0)
    sized += f", patch_size={patch}" if patch else ""
    lines = [f'net = timm.create_model("{name}", num_classes=0, in_chans={channels}{sized})']
    if cifar:
        lines.append(f"net.conv1, net.maxpool = {_source(conv)}, nn.Identity()")  # type: ignore[arg-type]
    return name, "cifar" if cifar else "imagenet", lines, "net"


def _of_vae(found: Loaded) -> Files:
    """Encoder with posterior, and decoder; weight norm is folded into plain weights."""
    method: Any = copy.deepcopy(found.method)
    names = ("encoder", "to_posterior", "decoder")
    parts: dict[str, Any] = {name: getattr(method, name, None) for name in names}
    if not all(isinstance(part, nn.Module) for part in parts.values()):
        raise UserError(f"{found.run.method}: has no encoder, to_posterior and decoder to export")
    for module in method.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
    encoder, scaled, build = method.encoder, "(x - 0.5) / 0.5", ""
    if isinstance(encoder, Backbone):
        name, _, lines, layers = _timm(found, encoder)
        build = "".join(f"        {line}\n" for line in lines)
        text, parts["encoder"] = (
            f"nn.Sequential({layers})" if name == "small" else layers,
            encoder.net,
        )
    elif not list(encoder.children()):  # it only flattens
        text, scaled = "nn.Flatten()", "x"
    else:
        text = _source(encoder, sequence=True)
    latent = method.to_posterior.out_features // 2
    maps = "feature maps for the PixelCNN, which is not part of this file"
    decoded = maps if hasattr(method, "pixelcnn") else (
        f"parameters of the likelihood {method.pixels.name} [B, C x parameters, H, W]"
    )  # fmt: skip
    body = VAE.format(
        build=build,
        encoder=text, posterior=_source(method.to_posterior), scaled=scaled, latent=latent,
        decoder=_source(method.decoder, sequence=True), decoded=decoded,
    )  # fmt: skip
    text = HEAD.format(about=_about(found)) + (RESIDUAL if "Residual(" in body else "")
    text += WHAT_WHERE if "WhatWhere(" in body else ""
    text += body + LOAD.format(kind="VAE")
    tensors = {
        f"{name}.{key}": x for name, part in parts.items() for key, x in part.state_dict().items()
    }
    facts = _facts(found, str(found.run.model.backbone), latent, "vae", "")
    return Files(tensors, facts, text)


def _source(module: nn.Module, sequence: bool = False, rows: bool = False) -> str:
    """The Python text that builds a module of plain torch layers; `rows`: it reads [B, D]."""
    if isinstance(module, _BatchNorm):
        return f"nn.BatchNorm{1 if rows else 2}d({module.num_features}, eps={module.eps})"
    if isinstance(module, ResidualBlock):
        parts = [_source(part) for part in (module.first, module.second, module.shortcut)]
        return f"Residual({', '.join(parts)}, {module.scale})"
    if isinstance(module, WhatWhereNet):
        return f"WhatWhere({_source(module.trunk)}, {_source(module.places)}, {module.cell})"
    if sequence or type(module) is nn.Sequential:
        return f"nn.Sequential({', '.join(_source(part) for part in module.children())})"
    if not isinstance(module, PLAIN):
        raise UserError(f"a {type(module).__name__} has no loader; use --program or --onnx")
    return f"nn.{module!r}"
