"""Whether a run may go on with what another one left: their configs, compared key by key."""

from typing import Any

# What may differ between a run and its resumption: where it runs and what is told about it, never
# what is computed.
RESUMABLE_KEYS = {
    "resume",
    "wandb",
    "data.root",
    "data.workers",
    "data.download",
    "data.memory",
    "data.changed",
    "data.timeout",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.profile",
    "trainer.log_every",
    "trainer.save_every",
    "trainer.keep_last",
    "trainer.keep_epochs",
    "trainer.timeout",
    "data.skip",
}


def differences(
    a: dict[str, Any], b: dict[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """The keys at which two configs as `to_dict` gives them differ, with both values; `folder`
    does not count.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for key in a.keys() | b.keys():
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found |= differences(left, right, f"{prefix}{key}.")
        elif left != right and prefix + key != "folder":
            found[prefix + key] = (left, right)
    return found
