"""Features of a frozen encoder as a file of arrays or a table, for other programs.

n = images of a split, D = feature dimensions, F = label columns.
"""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from core.data.source import Source
from core.errors import UserError
from core.files import write_atomically
from core.frozen import Frozen
from core.method import LatentModel, PairCritic

SUFFIXES = (".npz", ".parquet")


def write_npz(path: Path, frozen: Frozen, train_pairs: int, views: tuple[int, int]) -> Path:
    """Everything that the probes read: features and labels of each split and, if there are any,
    codes, posteriors and several views. `train_pairs`: how many images of train get two views.
    `views`: how many images of test get several views, and how many views each gets.
    """
    arrays: dict[str, Any] = {}
    factors = tuple(frozen.source("test").factors.items())
    for split, (x, y) in _labelled(frozen).items():
        arrays |= {f"x_{split}": x, f"y_{split}": y}
        if files := _paths(frozen.source(split)):
            arrays[f"path_{split}"] = np.array(files)
        if frozen.augmentation != "none":
            pairs = frozen.pairs(split, train_pairs if split == "train" else None)
            arrays |= {f"first_{split}": pairs.features[0], f"second_{split}": pairs.features[1]}
            if pairs.codes:
                arrays |= {f"query_{split}": pairs.codes[0], f"key_{split}": pairs.codes[1]}
    arrays |= {"factors": np.array([name for name, _ in factors])}
    arrays |= {"classes": np.array([count for _, count in factors])}
    if frozen.augmentation != "none":
        arrays["augmentation"] = np.array(frozen.augmentation)
        seen = frozen.views("test", views[1], views[0])
        arrays["views_test"] = seen.features
        if seen.codes is not None:
            arrays["view_codes_test"] = seen.codes
    if isinstance(frozen.method, PairCritic):
        arrays["temperature"] = np.array(frozen.method.temperature)
    if isinstance(frozen.method, LatentModel):
        found = frozen.latents("test")
        arrays |= {"mean_test": found.mean, "log_var_test": 2 * found.sigma.log()}
        arrays |= {"z_test": found.z, "distortion_test": found.distortion}
    plain: dict[str, Any] = {
        name: x.numpy() if isinstance(x, Tensor) else x for name, x in arrays.items()
    }

    def write(place: Path) -> None:
        with open(place, "wb") as file:
            np.savez(file, **plain)

    write_atomically(path, write)
    return path


def write_parquet(path: Path, frozen: Frozen) -> Path:
    """One row per image: split, place in the split, path if it is known, labels, feature."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            "--embeddings: a .parquet needs pyarrow; pip install it, or name a .npz"
        ) from None
    parts = []
    factors = tuple(frozen.source("test").factors)
    for split, (x, y) in _labelled(frozen).items():
        columns: dict[str, Any] = {"split": [split] * len(x), "index": list(range(len(x)))}
        columns["path"] = _paths(frozen.source(split)) or [None] * len(x)
        columns |= {name: y[:, column].numpy() for column, name in enumerate(factors)}
        flat = pa.array(x.numpy().reshape(-1), pa.float32())
        columns["feature"] = pa.FixedSizeListArray.from_arrays(flat, x.shape[1])
        columns["path"] = pa.array(columns["path"], pa.string())
        parts.append(pa.table(columns))
    table = pa.concat_tables(parts)
    write_atomically(path, lambda place: parquet.write_table(table, place))
    return path


def _labelled(frozen: Frozen) -> dict[str, tuple[Tensor, Tensor]]:
    """Features and labels of train, val and test. Train and val are the two parts of "trainval",
    because the probes read that split. The same content is rendered with other random numbers in
    "trainval" than in "train" and "val".
    """
    both, test = frozen.features("trainval"), frozen.features("test")
    n = len(frozen.source("train"))
    parts = {"train": slice(n), "val": slice(n, None)}
    found = {split: (both.x[rows], both.y[rows]) for split, rows in parts.items()}
    return found | {"test": (test.x, test.y)}


def _paths(source: Source) -> list[str]:
    """The path of each image of a split, if it was read from files."""
    files = getattr(getattr(source, "facts", None), "files", None)
    return [name for name, _ in files[1]] if files else []
