"""Named tensors from a weights file of any origin: .pth, .pth.tar, .pt, .ckpt or .safetensors.

Nothing in a file is called or imported; only its tensors are kept.
"""

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.errors import UserError, shown
from core.foreign import legacy
from core.run import archive

SAVE = "save the network by torch.save(network.state_dict(), path)"


class Weights(NamedTuple):
    """The tensors of a file, and the sha256 of its bytes."""

    tensors: dict[str, Tensor]  # nested entries are joined by dots: "state_dict.conv1.weight"
    digest: str


def read(path: Path) -> Weights:
    """All tensors of a file, on the CPU. `UserError` for other files."""
    try:
        if _is_safetensors(path):
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            with open(path, "rb") as raw:
                found = Weights(tensors, hashlib.file_digest(raw, "sha256").hexdigest())
        else:
            reader = legacy.read if legacy.is_legacy(path) else _read_zip
            tree, digest = reader(path)
            found = Weights(dict(_flat(tree, "")), digest)
    except archive.Foreign as error:
        raise UserError(f"{path}: refused, because it holds {shown(str(error))}; {SAVE}") from None
    except archive.Broken as error:
        raise UserError(
            f"{path}: is not a whole file of torch.save or safetensors ({error}); plain"
            f" pickles are refused, because reading them can run code; {SAVE}"
        ) from None
    except SafetensorError as error:
        raise UserError(f"{path}: is not a whole safetensors file ({shown(str(error))})") from None
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(f"{path}: can not be read ({reason})") from None
    if not found.tensors:
        raise UserError(
            f"{path}: holds no tensors by name; it may hold a pickled network, which is not read;"
            f" {SAVE}"
        )
    return found


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins with the length of a header and a brace, as safetensors does."""
    with open(path, "rb") as file:
        start, size = file.read(9), os.fstat(file.fileno()).st_size
    return len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] <= size


def _read_zip(path: Path) -> tuple[Any, str]:
    return archive.read(path, inert=True)


def _flat(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dicts, by their joined keys."""
    if isinstance(value, Tensor):
        yield name, value
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else str(key))
