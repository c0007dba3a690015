"""The options of a run's execution: devices, precision, and what is written when."""

from dataclasses import dataclass

from core.checks import at_least, one_of, timeout

GRAPHS = ("reduce-overhead", "max-autotune")  # torch.compile's modes with CUDA graphs
STRATEGIES = ("auto", "ddp", "fsdp")
SHARDED = ("32-true", "bf16-mixed")  # the precisions that fsdp supports


@dataclass
class TrainerConfig:
    """How a run is executed. The first five options go to Lightning Fabric."""

    accelerator: str = "auto"  # auto | cpu | gpu | cuda | mps
    devices: str = "1"  # number of devices of each machine, or auto = all
    num_nodes: int = 1  # number of machines
    precision: str = "32-true"  # 32-true | 64-true | bf16-mixed (for recent GPUs) | 16-mixed
    strategy: str = "auto"  # auto | ddp | fsdp (weights and moments are divided among devices)
    # true: batch norms use the global batch; false: each process uses its own part of the batch
    sync_batchnorm: bool = True
    compile: bool | str = False  # torch.compile; reduce-overhead and max-autotune add CUDA graphs
    # on one GPU: forward and backward are launched together, which is faster for small networks
    cuda_graph: bool = False
    channels_last: bool = False  # memory format of convolutions, faster on a GPU
    # true: on the same kind of GPU with the same torch, two runs of one config agree bit for bit,
    # even if one was resumed. This costs speed; a CPU does not need it. (TF32 keeps torch's
    # defaults: float32 convolutions use it, matrix products do not.)
    deterministic: bool = False
    log_every: int = 20  # steps between lines of metrics.jsonl
    save_every: int = 200  # steps between writes of last.ckpt
    save_minutes: float = 15.0  # minutes after which last.ckpt is also written; 0 = never
    keep_last: int = 2  # how many checkpoints are kept: last.ckpt, last-1.ckpt and so on
    keep_epochs: int = 0  # epochs between permanent checkpoints, epoch-N.ckpt; 0 = none
    timeout: float = 1800.0  # seconds that processes wait for each other, also during validation
    validate_every: int = 5  # epochs between validations; 0 = never
    csv: bool = False  # also write the metrics to csv/ in the run's folder
    # also write metrics and pictures to tensorboard/ in the run's folder (pip install tensorboard)
    tensorboard: bool = False
    profile: bool = False  # write profile/trace.json and profile/account.txt

    def __post_init__(self) -> None:
        at_least(self, num_nodes=1, log_every=1, save_every=1, keep_last=1)
        at_least(self, save_minutes=0, keep_epochs=0, validate_every=0)
        timeout(self.timeout)
        if self.compile not in (False, True, *GRAPHS):
            raise ValueError(
                f"compile: '{self.compile}' is not one of false, true, {', '.join(GRAPHS)}"
            )
        one_of(self, strategy=STRATEGIES)
        if self.strategy == "fsdp" and self.precision not in SHARDED:
            allowed = ", ".join(SHARDED)
            raise ValueError(f"strategy: fsdp supports only {allowed}, not {self.precision}")
        if self.cuda_graph:
            self._check_cuda_graph()
        if self.strategy == "fsdp" and self.channels_last:
            raise ValueError("channels_last: fsdp does not support it; set it to false")
        numbered = self.devices.isdecimal() and int(self.devices) > 0
        if not (self.devices in ("auto", "-1") or numbered):
            raise ValueError(f"devices: must be a number above 0 or 'auto', got '{self.devices}'")

    def _check_cuda_graph(self) -> None:
        if self.compile in GRAPHS:
            raise ValueError(
                f"cuda_graph: compile={self.compile} makes graphs of its own; use compile=true"
            )
        if self.precision in ("16-mixed", "16"):
            raise ValueError(f"cuda_graph: {self.precision} is not supported; use bf16-mixed")
        if self.strategy != "auto":
            raise ValueError(f"cuda_graph: strategy {self.strategy} is not supported; use auto")
