"""Whether a checkpoint belongs to the run in whose folder it lies."""

from pathlib import Path

from core.errors import UserError, shown
from core.run import checkpoint, config
from core.run.checkpoint import State
from core.run.resumable import hindrances
from core.trust import package_of


def require_own_best(path: Path, state: State) -> str:
    """Raise `UserError` if best.ckpt (`path`) is not of the run whose newest state is `state`;
    returns a line if it can not be read, else "".

    A state holds the best score so far, and best.ckpt has the same score. If later checkpoints are
    lost, best.ckpt may be newer than the state; then its score may be higher.
    """
    if not path.is_file():
        return ""
    try:
        entries = checkpoint.read(path)
    except UserError as error:
        return f"{error}; the next better validation replaces it"
    why = _other_config(path, entries, state.run)
    later, score = entries["step"] > state.step, entries["best"]
    if not why and tuple(entries["shape"]) != tuple(state.method.shape):
        why = f"its images are {entries['shape']}, but the run's are {list(state.method.shape)}"
    if not why and (score < state.best if later else score != state.best):
        why = f"its score is {score:.6g}, but the run's best is {state.best:.6g}"
    if why:
        raise UserError(f"folder: {path} belongs to another run ({why}); move it away")
    return ""


def said_of_folder(path: Path, run: config.RunConfig) -> str:
    """A line if a checkpoint lies in the folder of a run with another config, else ""."""
    beside = path.parent / "config.yaml"
    if not beside.is_file():
        return ""
    try:
        there = config.read(beside, [], trusted=[package_of(run.method)])
    except UserError:
        return ""
    found = hindrances(config.to_dict(run), config.to_dict(there), resume=True)
    if not found:
        return ""
    key, (mine, its) = min(found.items())
    return (
        f"belongs to another run than the folder's config.yaml ({key} is {shown(mine)} here and"
        f" {shown(its)} there); its numbers are not those of the folder's run"
    )


def _other_config(path: Path, entries: checkpoint.Entries, run: config.RunConfig) -> str:
    """How the config of a checkpoint differs from that of a run, or ""."""
    try:
        there = config.from_dict(entries["config"], str(path), [package_of(run.method)])
    except UserError as error:
        return str(error)
    found = hindrances(config.to_dict(there), config.to_dict(run), resume=True)
    return next((f"{k} is {shown(a)} there and {shown(b)} here" for k, (a, b) in found.items()), "")
