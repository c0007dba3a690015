"""`init=FILE`: first weights of a run from a file of another program, or from a checkpoint."""

from pathlib import Path

from core.errors import UserError
from core.foreign import fit, weights
from core.foreign.networks import CONFIG, WEIGHTS
from core.method import Method
from core.networks.backbones import Backbone
from core.run import archive, initial
from core.run.folder import home_expanded

WORDS = fit.Words(
    network="model.backbone=",
    others="they are not used",
    remedy="; model.backbone, model.stem, model.patch and the channels of the data must be those of"
    " the file",
)


def start_from(method: Method, init: str) -> tuple[str, str]:
    """Load weights into a new method. Returns a line for the user and the file's sha256.

    A checkpoint or a run folder is read by `core.run.initial.start_from`. In any other weights file
    and in an exported folder, `core.foreign.fit` finds the part that fits a backbone, as for
    `probe --weights`. Every backbone of the method gets this part. All other weights stay as they
    are. Raises `UserError` unless every key of the backbone is there with its shape. No code of the
    file is run.
    """
    path = home_expanded(init, "init")
    if path.is_dir() and all((path / name).is_file() for name in (CONFIG, WEIGHTS)):
        path = path / WEIGHTS
    if path.is_dir() or not path.is_file() or _is_checkpoint(path):
        return initial.start_from(method, init)
    try:
        held = weights.read(path)
        taken = _load(method, path, held)
    except UserError as error:
        raise UserError(f"init: {error}") from None
    return f"init: {taken}; the network reads images as (x - 0.5) / 0.5", held.digest


def _load(method: Method, path: Path, held: weights.Weights) -> str:
    """Load each backbone; returns what was loaded, in words."""
    name = str(getattr(method.config, "backbone", ""))
    backbones = {place: m for place, m in method.named_modules() if isinstance(m, Backbone)}
    if not backbones:
        raise UserError(
            f"{path}: holds weights of another program, and {type(method).__name__} has no backbone"
            " that could be loaded alone"
        )
    for backbone in backbones.values():
        remarks = fit.load(backbone.net, name, path, held, None, WORDS).remarks
    count = len(method.state_dict()) - sum(len(m.state_dict()) for m in backbones.values())
    said = f"{', '.join(backbones)} ({name}) from {path}: {'; '.join(remarks)}"
    return f"{said}; {count} other weights are new"


def _is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of this project: it names its format and its method."""
    try:
        entries, _ = archive.read(path)
    except (archive.Foreign, archive.Broken, OSError, MemoryError, ValueError):
        return False
    return isinstance(entries, dict) and {"format", "method", "config"} <= entries.keys()
