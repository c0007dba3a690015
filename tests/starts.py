"""Checkpoints of new weights, from which runs start."""

from core.run import checkpoint, config
from core.run.optim import build_optimizer
from tests.front_door import ROOT


def saved(path, name="simclr_sprites", *more, seed=3):
    """A checkpoint with weights of another seed; returns its weights."""
    run = config.read(ROOT / f"configs/{name}.yaml", [*more, f"seed={seed}"])
    method = checkpoint.build_method(run, (3, 32, 32))
    state = checkpoint.State(run, method, build_optimizer(method, run.optim), step=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, state)
    return method.state_dict()
