"""The options of Weights & Biases."""

from dataclasses import dataclass

from core.checks import one_of

LOGGING = ("auto", "disabled", "offline", "online")


@dataclass
class WandbConfig:
    """How a run is logged. If a text is empty, W&B reads its own environment variable."""

    # auto (WANDB_MODE, or online if logged in, else offline) | disabled | offline | online;
    # `wandb=offline` is short for `wandb.mode=offline`
    mode: str = "auto"
    project: str = ""  # the project; empty: WANDB_PROJECT, or twobounds
    entity: str = ""  # a user or team; empty: WANDB_ENTITY, or your default
    group: str = ""  # the group of the run; empty: WANDB_RUN_GROUP
    name: str = ""  # the name of the run; empty: WANDB_NAME, or the folder's name
    tags: str = ""  # tags of the run, separated by commas; empty: WANDB_TAGS
    notes: str = ""  # a note about the run; empty: WANDB_NOTES
    # upload last.ckpt, best.ckpt, config.yaml and the report as artifacts
    artifacts: bool = False

    def __post_init__(self) -> None:
        one_of(self, mode=LOGGING)

    @property
    def labels(self) -> list[str]:
        """The tags."""
        return [tag.strip() for tag in self.tags.split(",") if tag.strip()]
