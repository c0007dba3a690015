"""How a run is executed: devices, precision, and what is written when."""

from dataclasses import dataclass

GRAPHS = ("reduce-overhead", "max-autotune")  # torch.compile's modes with CUDA graphs
STRATEGIES = ("auto", "ddp", "fsdp")
SHARDED = ("32-true", "bf16-mixed")  # precisions that go with fsdp


@dataclass
class TrainerConfig:
    """How a run is executed. The first five go straight to Lightning Fabric."""

    accelerator: str = "auto"
    devices: str = "1"  # a number or "auto"
    num_nodes: int = 1
    precision: str = "32-true"  # "bf16-mixed" on a recent GPU
    # auto | ddp | fsdp: weights, gradients and the optimiser's moments are divided among the
    # devices
    strategy: str = "auto"
    sync_batchnorm: bool = (
        True  # batch-norm statistics are those of the global batch; false = each process's own
    )
    compile: bool | str = (
        # torch.compile of the networks; reduce-overhead and max-autotune replay CUDA graphs, too
        False
    )
    channels_last: bool = False
    # On a GPU the same run twice ends with other digits, unless this is true: then two runs, and a
    # resumed one, are the same bit for bit on one kind of card, with one torch. It costs speed. A
    # CPU needs no such option. (TF32 is as torch has it: convolutions in float32 take it, matrix
    # products do not.)
    deterministic: bool = False
    log_every: int = 20  # steps between lines of metrics.jsonl
    save_every: int = 200  # steps between writes of last.ckpt
    keep_last: int = 2  # how many of them stay: last.ckpt and those before it, last-1.ckpt, ...
    keep_epochs: int = 0  # epochs between checkpoints that stay for good, epoch-N.ckpt; 0 = none
    # seconds that processes wait for one another before they call one dead; validation has to fit
    timeout: float = 1800.0
    validate_every: int = 5  # epochs between validations (online kNN); 0 = never
    profile: bool = (
        False  # write profile/trace.json and profile/account.txt: where the time of a step goes
    )

    def __post_init__(self) -> None:
        least_of = {
            "num_nodes": 1,
            "log_every": 1,
            "save_every": 1,
            "keep_last": 1,
            "keep_epochs": 0,
            "validate_every": 0,
        }
        for key, least in least_of.items():
            if getattr(self, key) < least:
                raise ValueError(f"{key}: must be {least} or more, got {getattr(self, key)}")
        if not 0 < self.timeout <= 86400 * 365:
            raise ValueError(
                f"timeout: must be above 0 seconds and within a year, got {self.timeout}"
            )
        if self.compile not in (False, True, *GRAPHS):
            raise ValueError(
                f"compile: '{self.compile}' is none of false, true, {', '.join(GRAPHS)}"
            )
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy: '{self.strategy}' is none of {', '.join(STRATEGIES)}")
        if self.strategy == "fsdp" and self.precision not in SHARDED:
            raise ValueError(
                f"strategy: fsdp goes with the precisions {', '.join(SHARDED)}, not"
                f" {self.precision}"
            )
        if self.strategy == "fsdp" and self.channels_last:
            raise ValueError(
                "channels_last: torch shards no weights that lie in another order; leave it out"
                " under fsdp"
            )
        if not (
            self.devices in ("auto", "-1") or (self.devices.isdecimal() and int(self.devices) > 0)
        ):
            raise ValueError(f"devices: must be a number above 0 or 'auto', got '{self.devices}'")
