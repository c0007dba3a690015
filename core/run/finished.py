"""Whether a run folder holds a run that is finished, read from its files."""

import json
from pathlib import Path

from core.errors import UserError, shown
from core.run import checkpoint, config
from core.run.folder import RunFolder
from core.run.resumable import hindrances


def state_of(place: Path, run: config.RunConfig) -> str:
    """The state of this run in a folder:

        done             last.ckpt is from the last step
        done, on data.root=ROOT   as done, but trained on data at another place, ROOT; if the run
                         is resumed, the data are compared
        at step N        last.ckpt is from an earlier step
        new              there is no checkpoint
        another config   the checkpoint belongs to another run
        started          the files can not be read

    The step's epoch is read from metrics.jsonl, the number of epochs from the checkpoint's config.
    """
    folder = RunFolder(place)
    if not folder.versions():
        return "new"
    try:
        entries = checkpoint.read(folder.versions()[0])
        if hindrances(entries["config"], config.to_dict(run), resume=False):
            return "another config"
        step, epochs = entries["step"], entries["config"]["optim"]["epochs"]
        lines = folder.metrics.read_text("utf-8").splitlines()
        found = [json.loads(line) for line in lines]
        root = entries["config"]["data"]["root"]
        last = max((line["epoch"] for line in found if line["step"] == step), default=0.0)
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return "started"  # resuming it says what is wrong
    if last < epochs:
        return f"at step {step}"
    return "done" if root == run.data.root else f"done, on data.root={shown(root)}"
