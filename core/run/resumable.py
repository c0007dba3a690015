"""Which keys of a config may change when a run is resumed."""

from typing import Any

# Keys that do not change results: the place where the run is executed, its files and its logs.
RESUMABLE_KEYS = {"resume", "wandb"}
RESUMABLE_KEYS |= {
    f"data.{key}" for key in ("root", "workers", "download", "memory", "changed", "timeout", "skip")
}
RESUMABLE_KEYS |= {
    f"trainer.{key}"
    for key in ("accelerator", "devices", "num_nodes", "strategy", "timeout", "profile")
    + ("log_every", "save_every", "save_minutes", "keep_last", "keep_epochs")
    + ("tensorboard", "csv")
}
LONGER = "optim.epochs"  # a resumed run may train longer, which changes its schedules


def hindrances(
    held: dict[str, Any], wanted: dict[str, Any], resume: bool
) -> dict[str, tuple[Any, Any]]:
    """The keys that do not allow a run with the config `wanted` to continue a run with the config
    `held`, each with the held and the wanted value.
    """
    found = differences(held, wanted)
    epochs = found.get(LONGER, (0, 0))
    if resume and all(type(count) is int for count in epochs) and epochs[1] > epochs[0]:
        del found[LONGER]
    return {key: pair for key, pair in found.items() if not _may_change(key)}


def _may_change(key: str) -> bool:
    return key in RESUMABLE_KEYS or key.partition(".")[0] in RESUMABLE_KEYS


def differences(
    a: dict[str, Any], b: dict[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """The dotted keys at which two configs differ, with both values. `folder` is not compared."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in a.keys() | b.keys():
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found |= differences(left, right, f"{prefix}{key}.")
        elif left != right and prefix + key != "folder":
            found[prefix + key] = (left, right)
    return found
