"""One run as one dataclass: what the YAML file says, checked before any work starts."""

import configs
from core.data.datasets import DataConfig
from core.errors import UserError, nearest
from core.method import locate
from core.run.optim import OptimConfig

from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

GRAPHS = ("reduce-overhead", "max-autotune")  # torch.compile's modes with CUDA graphs
STRATEGIES = ("auto", "ddp", "fsdp")
SHARDED = ("32-true", "bf16-mixed")  # precisions that go with fsdp
LOGGING = ("auto", "disabled", "offline", "online")


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


@dataclass
class RunConfig:
    """Everything that a run depends on. `model` is the method's own `Config`."""

    method: str = "???"  # room.file.Class
    model: Any = None
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    seed: int = 0
    folder: str = "???"  # where the run is kept
    wandb: str = "auto"  # auto (online if logged in, else offline) | disabled | offline | online
    resume: bool = False

    def __post_init__(self) -> None:
        if self.wandb not in LOGGING:
            raise ValueError(f"wandb: '{self.wandb}' is none of {', '.join(LOGGING)}")
        if self.trainer.compile in GRAPHS and self.optim.micro_batch:
            raise ValueError(
                "trainer.compile: a CUDA graph overwrites what micro batches come back to; take"
                " true, or optim.micro_batch=0"
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed: must be 0 or more and below 2^63, got {self.seed}")


def read(path: str | Path, overrides: list[str]) -> RunConfig:
    """A YAML file and its `key=value` overrides as a checked `RunConfig`; a `UserError` names the
    key and the mend.
    """
    path = configs.find(path)
    if not path.is_file():
        reason = "is a folder, and a config is a YAML file" if path.is_dir() else "no such config"
        raise UserError(f"{path}: {reason}{nearest(path.stem, configs.names())}")
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except UnicodeDecodeError:
        raise UserError(
            f"{path}: is no text; a config is a YAML file, such as those in configs/"
        ) from None
    except (
        OmegaConfBaseException,
        YAMLError,
        OSError,
        ValueError,
    ) as error:  # a bare number is an OSError to OmegaConf
        raise UserError(f"{path}: {_reason(error)}") from None
    except RecursionError:
        raise UserError(
            f"{path}: its lists or mappings are nested too deep, or hold themselves"
        ) from None
    return from_dict(_merged(values, overrides, str(path)), str(path))


def from_dict(values: Any, origin: str) -> RunConfig:
    """A checked `RunConfig` from plain containers, as read from YAML or from a checkpoint."""
    if not isinstance(values, dict):
        raise UserError(f"{origin}: a config is a mapping of keys to values")
    for key in ("method", "folder"):
        if not isinstance(values.get(key), str):
            raise UserError(
                f"{origin}: '{key}' is missing or no text; every config names its {key}"
            )
    model_type = locate(values["method"]).Config
    values = {
        key: {} if value is None and key in ("model", "data", "optim", "trainer") else value
        for key, value in values.items()
    }
    _refuse_unknown(values, RunConfig, model_type, origin)
    sections = {
        name: kind for name, kind in get_type_hints(RunConfig).items() if is_dataclass(kind)
    } | {"model": model_type}
    built = {
        name: _checked(kind, values.get(name, {}), f"{name}.", origin)
        for name, kind in sections.items()
    }
    top = {key: value for key, value in values.items() if key not in sections}
    try:
        return replace(
            _checked(RunConfig, top, "", origin), **built
        )  # checked once more, now for what sections ask of one another
    except ValueError as error:
        raise UserError(f"{origin}: {error}") from None


def override(run: RunConfig, overrides: list[str], origin: str) -> RunConfig:
    """A checked config with `key=value` overrides, such as another data.root."""
    return from_dict(_merged(to_dict(run), overrides, origin), origin)


def for_information(run: RunConfig) -> RunConfig:
    """The config with the views of the information probe, which may be others than those of
    training.
    """
    return replace(run, data=replace(run.data, augment=run.data.probe_augment or run.data.augment))


def to_dict(run: RunConfig) -> dict[str, Any]:
    """The resolved config as plain containers, for the run folder, the checkpoint and the
    logger.
    """
    sections = ("model", "data", "optim", "trainer")
    plain = OmegaConf.to_container(
        OmegaConf.structured({name: getattr(run, name) for name in sections})
    )
    assert isinstance(plain, dict)
    return {
        f.name: plain[f.name] if f.name in sections else getattr(run, f.name)
        for f in fields(RunConfig)
    }  # type: ignore[misc]


def _merged(values: Any, overrides: list[str], origin: str) -> Any:
    """Plain containers with `key=value` overrides put in and interpolations resolved."""
    if not isinstance(values, dict):
        raise UserError(f"{origin}: a config is a mapping of keys to values")
    for text in overrides:
        key, equals, _ = text.partition("=")
        if not (equals and key.strip()):
            raise UserError(f"'{text}': an override is key=value, such as optim.lr=0.3")
    try:
        return OmegaConf.to_container(
            OmegaConf.merge(values, OmegaConf.from_dotlist(overrides)), resolve=True
        )
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise UserError(f"{origin}: {' '.join(overrides)}: {str(error).splitlines()[0]}") from None


def _reason(error: Exception) -> str:
    """What a parser says, in one line: what is wrong and where, rather than what it was doing."""
    if isinstance(error, MarkedYAMLError) and error.problem and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {' '.join(error.problem.split())}"
    return str(error).splitlines()[0]


def _checked(kind: Any, values: Any, prefix: str, origin: str) -> Any:
    """One section as its dataclass. OmegaConf checks types, the dataclass checks ranges."""
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), values))
    except OmegaConfBaseException as error:
        key = f" {prefix}{error.full_key}:" if error.full_key else f" {prefix.rstrip('.')}:"
        raise UserError(f"{origin}:{key} {str(error.msg or error).splitlines()[0]}") from None
    except ValueError as error:
        raise UserError(f"{origin}: {prefix}{error}") from None


def _refuse_unknown(
    values: dict[Any, Any], kind: type, model_type: type, origin: str, prefix: str = ""
) -> None:
    hints = get_type_hints(kind)
    for key, value in values.items():
        if key not in hints:
            raise UserError(f"{origin}: unknown key '{prefix}{key}'{nearest(str(key), hints)}")
        inner = model_type if kind is RunConfig and key == "model" else hints[key]
        if isinstance(inner, type) and is_dataclass(inner):
            if not isinstance(value, dict):
                raise UserError(
                    f"{origin}: '{prefix}{key}' holds keys of its own, not the value {value!r}"
                )
            _refuse_unknown(value, inner, model_type, origin, f"{prefix}{key}.")
