"""A small file of `compress` that was made once, and its model.

python -m tests.vae.kept           # decode it and code its images again: one line of JSON
python -m tests.vae.kept make      # make it (only for a new format)
"""

import hashlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import torch

from vae.bitsback import compressor
from vae.container import Reader, blocks_of, fingerprint, write
from vae.priors import PriorConfig
from vae.vlae import VLAE, VLAEConfig

FILE = Path(__file__).parent / "kept.tb"
IMAGES = "0587e973f5c97962421d7af81392ad07901642c81b89005dcb7bb401a0a05675"
BLOCK = 50


def model() -> VLAE:
    """A VLAE whose weights are whole numbers over 1024, on every machine the same."""
    config = VLAEConfig(
        backbone="mlp",
        decoder="mlp",
        width=16,
        latent=4,
        pixel_width=6,
        pixel_blocks=1,
        window="2",
        prior=PriorConfig("flow", steps=2, width=16),
    )
    method = VLAE(config, (1, 8, 8)).eval()
    for number, (_, parameter) in enumerate(sorted(method.named_parameters())):
        places = torch.arange(parameter.numel()) + 1000 * number
        parameter.data = ((places * 40503 % 65536) // 128 - 256).view_as(parameter) / 1024.0
    return method


def images() -> np.ndarray:
    """The 80 images of the file."""
    places = np.arange(80 * 64)
    black = (places * places * 40503 // 7 % 65536 > 40000) * 255
    return black.astype(np.uint8).reshape(80, 1, 8, 8)


def digest(x: np.ndarray) -> str:
    return hashlib.sha256(x.tobytes()).hexdigest()


@torch.no_grad()
def coded(given: np.ndarray) -> bytes:
    """The file of images."""
    method, file = model(), io.BytesIO()
    blocks = blocks_of(given, BLOCK)
    write(file, compressor(method), fingerprint(method), blocks, len(given), BLOCK)
    return file.getvalue()


@torch.no_grad()
def decoded_here() -> dict[str, object]:
    """What this process decodes, whether it codes the same file again, and the digest of network
    outputs before they are rounded.
    """
    method = model()
    reader, codec = Reader(FILE, io.BytesIO(FILE.read_bytes())), compressor(method)
    found = np.concatenate([reader.decode(codec, i) for i in range(len(reader.blocks))])
    raw = np.concatenate(codec.moments(found))
    wide = torch.arange(512 * 512).view(512, 512).double().sin()
    return {
        "images": digest(found),
        "same_file": coded(found) == FILE.read_bytes(),
        "moments": digest(raw),
        "product": digest((wide @ wide.T).numpy()),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["make"]:
        FILE.write_bytes(coded(images()))
        print(digest(images()), FILE.stat().st_size)
    else:
        if sys.argv[1:] == ["without-onednn"]:
            torch.backends.mkldnn.enabled = False
        print(json.dumps(decoded_here()))
