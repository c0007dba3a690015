"""Files of plain features, .npz or .safetensors: their arrays by name, checked.

n = images of a split, V = views, D = feature dimensions, P = code dimensions, L = latent
dimensions, F = label columns.
"""

import difflib
import hashlib
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from core import npz
from core.errors import UserError, shown
from core.numbers import lost_in_float32, plain

SPLITS = ("train", "val", "test")
# name without its split -> number of dimensions
KINDS = {
    "x": 2,  # features [n, D] of plain images
    "y": 2,  # labels [n] or [n, F], whole numbers from 0
    "first": 2,  # features [n, D] of a first view; if absent, x is the first view
    "second": 2,  # features [n, D] of a second view
    "query": 2,  # codes [n, P] of the first view
    "key": 2,  # codes [n, P] of the second view
    "views": 3,  # features [n, V, D] of V views
    "view_codes": 3,  # codes [n, V, P] of V views
    "mean": 2,  # of the posterior q(z|x), [n, L]
    "log_var": 2,  # log of its variances, [n, L]
    "z": 2,  # one draw from it, [n, L]
    "distortion": 1,  # -log p(x|z), nats per image [n]
}
# arrays that belong to no split: the temperature of the codes' scores, the names of the label
# columns, their numbers of classes, and a word for what makes two views differ
WITHOUT_SPLIT = {"temperature": 0, "factors": 1, "classes": 1, "augmentation": 0}
TEXTS = ("factors", "augmentation")
IGNORED = ("index", "path")  # arrays of each split that no probe reads
PAIRED = ("first", "second", "query", "key")
LATENT = ("mean", "log_var", "z", "distortion")
MOST_NUMBERS = 2**32  # numbers of an array
CLASSES = 2**16
FACTORS = 256
LONGEST_NAME = 100  # characters of a factor's name
NETWORK = "if it holds weights, name their network by --timm NAME --weights FILE"
SAVE = "save it by numpy.savez(path, x_train=…, y_train=…, x_test=…, y_test=…)"


class Table(NamedTuple):
    """The arrays of a file."""

    arrays: dict[str, Tensor]  # float32, labels int64
    factors: dict[str, int]  # label column -> number of classes
    temperature: float | None  # of the scores of codes
    augmentation: str  # what makes two views differ
    digest: str  # sha256 of the file's bytes


def read(path: Path) -> Table:
    """All arrays of a file. `UserError` names the array that can not be used."""
    if path.suffix.lower() == ".npz":
        held: dict[str, Any] = npz.read(path, SAVE, lambda records: _of_npz(path, records))
    else:
        held = _of_safetensors(path)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    arrays = {}
    for name, values in held.items():
        if name not in WITHOUT_SPLIT:
            arrays[name] = (
                _labels(path, name, values) if name[:2] == "y_" else _real(path, name, values)
            )
    _check_shapes(path, arrays)
    word = str(held.get("augmentation", "as in the file"))
    if not (0 < len(word) <= LONGEST_NAME and word.isprintable()) or word == "none":
        raise UserError(f"{path}: its augmentation is {shown(word)}; give a word, such as simclr")
    return Table(arrays, _factors(path, held, arrays), _temperature(path, held), word, digest)


def _known(path: Path, names: list[str]) -> list[str]:
    """The names to read; `UserError` for a name that is not one of a feature file."""
    allowed = {
        f"{kind}_{split}": rank for kind, rank in KINDS.items() for split in SPLITS
    } | WITHOUT_SPLIT
    others = {f"{kind}_{split}" for kind in IGNORED for split in SPLITS}
    for name in names:
        if name not in allowed and name not in others:
            near = difflib.get_close_matches(name[:100], allowed, 1, 0.5)
            hint = f" (did you mean '{near[0]}'?)" if near else f"; {SAVE}; {NETWORK}"
            raise UserError(f"{path}: holds {shown(name)}, which is not an array of features{hint}")
    return [name for name in names if name in allowed]


def _of_npz(path: Path, records: zipfile.ZipFile) -> dict[str, Any]:
    ranks = {
        f"{kind}_{split}": rank for kind, rank in KINDS.items() for split in SPLITS
    } | WITHOUT_SPLIT
    return {
        name: npz.array(records, name, path, SAVE, MOST_NUMBERS, ranks[name], _kinds(name))
        for name in _known(path, npz.names(records))
    }


def _kinds(name: str) -> str:
    """numpy's kinds that an array may have: text, or numbers."""
    return "U" if name in TEXTS else "fiub"


def _of_safetensors(path: Path) -> dict[str, Any]:
    ranks = {
        f"{kind}_{split}": rank for kind, rank in KINDS.items() for split in SPLITS
    } | WITHOUT_SPLIT
    try:
        with safe_open(path, framework="pt") as file:
            names = _known(path, list(file.keys()))
            found: dict[str, Any] = {name: file.get_tensor(name) for name in names}
            said = file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: is not a whole safetensors file ({shown(str(error))})") from None
    for name, tensor in found.items():
        if name in TEXTS:
            raise UserError(f"{path}: {name} is an array; store it as text in the file's metadata")
        if tensor.ndim > ranks[name]:
            raise UserError(
                f"{path}: {name} has shape {list(tensor.shape)}; give at most {ranks[name]}"
                " dimensions"
            )
    if "factors" in said:
        found["factors"] = said["factors"].split(",")[: FACTORS + 1]
    return found | {key: said[key] for key in ("augmentation",) if key in said}


def _real(path: Path, name: str, values: Any) -> Tensor:
    """Finite float32 numbers of the right rank."""
    x = torch.as_tensor(plain(values, f"{path}: {name}"))
    rank = KINDS[name.rpartition("_")[0]]
    if x.ndim != rank or 0 in x.shape:
        wanted = {1: "[n]", 2: "[n, d]", 3: "[n, v, d]"}[rank]
        raise UserError(f"{path}: {name} has shape {list(x.shape)}; give {wanted}, n of 1 or more")
    if (column := lost_in_float32(x)) is not None:
        raise UserError(
            f"{path}: float32 can not hold column {column} of {name}: its values are too small, or"
            " they vary too little beside their mean; scale them or subtract the mean, in the same"
            " way in all splits"
        )
    x = x.float().contiguous()
    if not x.isfinite().all():
        row = int((~x.isfinite()).flatten(1).any(1).nonzero()[0]) if rank > 1 else 0
        raise UserError(f"{path}: row {row} of {name} holds a value that is not finite in float32")
    return x


def _labels(path: Path, name: str, values: Any) -> Tensor:
    """Labels int64 [n, F], whole numbers from 0."""
    y = torch.as_tensor(plain(values, f"{path}: {name}"))
    if y.is_floating_point() or y.ndim not in (1, 2) or 0 in y.shape:
        raise UserError(
            f"{path}: {name} is {y.dtype} of shape {list(y.shape)}; give whole numbers,"
            " [n] or [n, F]"
        )
    y = y.long().view(len(y), -1)
    if y.min() == -1:
        raise UserError(
            f"{path}: {name} has the label -1 in row {int((y == -1).any(1).nonzero()[0])}; labels"
            " count from 0. If -1 means that a row has no label, leave the row out of all arrays"
        )
    if y.min() < 0 or y.max() >= CLASSES or y.shape[1] > FACTORS:
        raise UserError(
            f"{path}: {name} has labels from {y.min()} to {y.max()} in {y.shape[1]} columns; labels"
            f" are 0 to {CLASSES - 1}, in at most {FACTORS} columns"
        )
    return y


def _check_shapes(path: Path, arrays: dict[str, Tensor]) -> None:
    """Raise `UserError` if arrays that belong together have different lengths or dimensions, or if
    one of a pair is missing.
    """
    if not any(name.startswith(("x_", "mean_", *(f"{p}_" for p in PAIRED))) for name in arrays):
        raise UserError(f"{path}: holds no features; {SAVE}")

    def agree(names: list[str], what: str, side: int) -> None:
        held = [(name, arrays[name].shape[side]) for name in names if name in arrays]
        for name, size in held[1:]:
            if size != held[0][1]:
                raise UserError(f"{path}: {held[0][0]} has {held[0][1]} {what} and {name} {size}")

    for split in SPLITS:
        agree([f"{kind}_{split}" for kind in ("x", "y")], "rows", 0)
        first = "first" if f"first_{split}" in arrays else "x"
        agree([f"{kind}_{split}" for kind in (first, "second", "query", "key")], "rows", 0)
        agree([f"{kind}_{split}" for kind in LATENT], "rows", 0)
        for one, other in (("query", "key"), ("mean", "log_var"), ("first", "second")):
            pair = {f"{one}_{split}", f"{other}_{split}"} & arrays.keys()
            if len(pair) == 1 and pair != {f"second_{split}"}:
                missing = ({f"{one}_{split}", f"{other}_{split}"} - pair).pop()
                raise UserError(
                    f"{path}: holds {pair.pop()} but no {missing}; they belong together"
                )
    for kinds in (("x", "first", "second", "views"), ("query", "key", "view_codes"), ("mean", "z")):
        agree([f"{kind}_{split}" for kind in kinds for split in SPLITS], "dimensions", -1)
    agree([f"y_{split}" for split in SPLITS], "columns", 1)
    agree([f"{kind}_{split}" for split in SPLITS for kind in ("mean", "log_var")], "dimensions", -1)


def _factors(path: Path, held: dict[str, Any], arrays: dict[str, Tensor]) -> dict[str, int]:
    """Label column -> number of classes. They come from `factors` and `classes` or, without these,
    from the largest label.
    """
    labels = [arrays[name] for name in arrays if name[:2] == "y_"]
    if not labels:
        return {}
    columns = labels[0].shape[1]
    names = [str(name) for name in held.get("factors", ())] or (
        ["class"] if columns == 1 else [f"label{number}" for number in range(columns)]
    )
    most = torch.cat(labels).amax(0) + 1
    counts = most
    if "classes" in held:
        counts = torch.as_tensor(plain(held["classes"], f"{path}: classes")).long()
    legible = all(name and name.isprintable() and len(name) <= LONGEST_NAME for name in names)
    if len(names) != columns or counts.shape != most.shape:
        raise UserError(
            f"{path}: its labels have {columns} columns, but factors or classes has another length"
        )
    if len(set(names)) != columns or not legible:
        raise UserError(
            f"{path}: the names in factors must differ, and have 1 to {LONGEST_NAME} printable"
            " characters"
        )
    if (counts < most).any() or counts.max() > CLASSES:
        raise UserError(
            f"{path}: classes {counts.tolist()} are too few for its labels, which go up to"
            f" {(most - 1).tolist()}"
        )
    return dict(zip(names, counts.tolist(), strict=True))


def _temperature(path: Path, held: dict[str, Any]) -> float | None:
    if "temperature" not in held:
        return None
    value = float(np.array(held["temperature"]).reshape(-1)[0])
    if not 1e-6 <= value <= 1e6:
        raise UserError(f"{path}: temperature is {value:g}; it must be from 1e-6 to 1e6")
    return value
