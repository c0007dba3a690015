"""What a command line names: checkpoints of this project, foreign encoders, files of features."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import UserError
from core.foreign import networks
from core.foreign.feature_file import FeatureFile
from core.foreign.frozen import Asked, open_encoder
from core.frozen import Frozen
from core.run.belonging import said_of_folder
from core.run.folder import RunFolder, home_expanded

FEATURES = (".npz", ".safetensors")
NETWORKS = (".pth", ".pt", ".tar", ".bin")  # of other programs
OF_NETWORK = "weights of another program need the name of their network:"


class Origin(NamedTuple):
    """A frozen encoder, the path that stands for it, and whether this path is a checkpoint."""

    path: Path
    frozen: Frozen
    checkpoint: bool
    remarks: list[str]


def opened(options: argparse.Namespace, device: Any) -> Iterator[Origin]:
    """Each encoder, opened only when its turn comes. Raises `UserError`."""
    chosen = {"seed": options.seed, "device": device, "quiet": False}
    asked = asked_of(options)
    foreign = bool(asked.timm or asked.torch)
    if foreign or any(_kind(one)[0] != "checkpoint" for one in options.targets):
        _refuse_logging(options.overrides)
    if foreign:
        yield _foreign(asked, options, chosen)
    found = [(kind, find(path, options.best)) for kind, path in map(_kind, options.targets)]
    for kind, path in found:
        if kind == "folder":
            yield _foreign(asked._replace(folder=path), options, chosen)
        elif kind == "features":
            frozen = FeatureFile.read(path, options.overrides, **chosen)
            kept = asked.out / path.name if asked.out else path
            yield Origin(kept, frozen, False, frozen.remarks)
        else:
            _refuse_seed(options.overrides)
            trusted = tuple(options.trust)
            held = Frozen.load(path, options.overrides, trusted, **chosen)
            remark = said_of_folder(path, held.trained)
            yield Origin(path, held, True, [remark] if remark else [])


def asked_of(options: argparse.Namespace) -> Asked:
    """The options of a foreign encoder; `UserError` if they are given without one."""
    given = {key: getattr(options, key) for key in Asked._fields if getattr(options, key, None)}
    for key in ("weights", "out"):
        if key in given:
            given[key] = home_expanded(given[key], f"--{key}")
    asked = Asked(**given)
    if options.targets and (asked.timm or asked.torch):
        raise UserError(
            f"{options.targets[0]}: --timm and --torch take one encoder; probe others in another"
            " call, and name a weights file with --weights"
        )
    needs = [key for key in ("weights", "prefix", "random") if key in given]
    if needs and not (asked.timm or asked.torch):
        raise UserError(f"--{needs[0]}: it needs --timm NAME or --torch package.module:function")
    others = [key for key in ("size", "mean", "std", "crop", "pool") if key in given]
    folders = any(_kind(target)[0] == "folder" for target in options.targets)
    if others and not (asked.timm or asked.torch or folders):
        raise UserError(f"--{others[0]}: applies only to a foreign encoder (see --help)")
    if asked.out:
        _refuse_one_place(options.targets)
    return asked


def _refuse_one_place(targets: list[str]) -> None:
    """Raise `UserError` for targets whose reports can not all be written with one --out."""
    kinds = [_kind(target) for target in targets]
    for kind, path in kinds:
        if kind == "checkpoint":
            raise UserError(
                f"{path}: --out is not for checkpoints: the report of a checkpoint is beside it"
            )
    names = [path.stem if kind == "features" else "" for kind, path in kinds]
    if len(set(names)) < len(names):
        raise UserError(
            "--out: two of these would write the same report; probe each alone, with its own --out"
        )


def find(target: Path, best: bool = False) -> Path:
    """The checkpoint of a run folder, or the file itself."""
    if not target.is_dir() or is_exported(target):
        return target
    folder = RunFolder(target)
    path = folder.best if best else folder.last
    if not path.is_file():
        raise UserError(f"{target}: holds no {path.name}; give a run folder or a checkpoint")
    return path


def is_exported(target: Path) -> bool:
    """Whether a folder holds an exported network and is not a run folder."""
    held = all((target / name).is_file() for name in (networks.CONFIG, networks.WEIGHTS))
    return held and not RunFolder(target).last.is_file()


def _kind(word: str | Path) -> tuple[str, Path]:
    path = Path(word)
    if path.suffix.lower() in NETWORKS:
        raise UserError(f"{path}: {OF_NETWORK} --timm NAME --weights {path}")
    if path.suffix.lower() in FEATURES and not path.is_dir():
        return "features", path
    return ("folder" if path.is_dir() and is_exported(path) else "checkpoint"), path


def _foreign(asked: Asked, options: argparse.Namespace, chosen: dict[str, Any]) -> Origin:
    found = open_encoder(asked, options.overrides, **chosen)
    return Origin(found.path, found.frozen, False, found.remarks)


def _refuse_logging(overrides: list[str]) -> None:
    """Raise `UserError` for keys of W&B, because nothing of a foreign encoder is logged."""
    if words := [word for word in overrides if word.startswith("wandb")]:
        raise UserError(f"{words[0]}: only probes of a checkpoint are logged (in its own W&B run)")


def _refuse_seed(overrides: list[str]) -> None:
    """Raise `UserError` for seed=…, which a checkpoint's config has."""
    if any(word.startswith("seed=") for word in overrides):
        raise UserError("seed=: a checkpoint has its own seed; --seed is the seed of the probes")
