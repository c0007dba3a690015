"""The config of a run: a YAML file and overrides, checked before any work starts."""

import difflib
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass, make_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import configs
from core.data import doubtful
from core.data.datasets import DataConfig
from core.data.registry import for_omegaconf, is_own, locate_source, trust
from core.errors import SHOWN, UserError, nearest, shown
from core.method import Method, locate
from core.run import yaml_values
from core.run.optim import OptimConfig
from core.run.trainer_config import GRAPHS, TrainerConfig
from core.run.wandb_config import WandbConfig
from core.trust import package_of

# keys whose values are paths; these may contain environment variables, which stay as written
PLACES = ("data.root", "folder", "init")


@dataclass
class RunConfig:
    """Everything that a run depends on. `model` is the method's own `Config`."""

    method: str = "???"  # the class that is trained: package.module.Class
    model: Any = None
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    seed: int = 0  # seed of the weights, the batches and the views
    folder: str = "???"  # the folder of the run
    # the first weights: a checkpoint, a run folder, an exported folder, or a weights file of
    # another program (.pth, .pth.tar, .safetensors); empty = random
    init: str = ""
    resume: bool = False  # continue the run in its folder, the same as --resume
    # not a key of the config; maps a key to (value, its text in the YAML file, such as
    # ${oc.env:NAME})
    written: Any = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        trainer = self.trainer
        if self.optim.micro_batch and (trainer.cuda_graph or trainer.compile in GRAPHS):
            key = "cuda_graph" if trainer.cuda_graph else "compile"
            raise ValueError(
                f"trainer.{key}: CUDA graphs overwrite activations that micro batches need; use"
                f" {'false' if trainer.cuda_graph else 'true'}, or optim.micro_batch=0"
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed: must be 0 or more and below 2^63, got {self.seed}")
        epochs, kept = self.optim.epochs, self.trainer.keep_epochs
        if kept > epochs:
            raise ValueError(
                f"trainer.keep_epochs: the run ends after {epochs} epochs (optim.epochs), so a"
                f" checkpoint every {kept} epochs is never written"
            )


SECTIONS = ("model", "data", "optim", "trainer", "wandb")
NO_KEYS = ("written", "doubtful")  # fields that are not keys of a config
KEYS = tuple(f.name for f in fields(RunConfig) if f.name not in NO_KEYS)
# the keys of a config that are not sections
_Top = make_dataclass(
    "_Top",
    [(f.name, f.type, f.default) for f in fields(RunConfig) if f.name in set(KEYS) - set(SECTIONS)],
)


class Wrong(Exception):
    """A key and what is wrong with it; the caller adds where it was written."""

    def __init__(self, key: str, reason: str):
        super().__init__(f"{key}: {reason}" if key else reason)
        self.key = key


def read(path: str | Path, overrides: list[str], trusted: Iterable[str] | None = None) -> RunConfig:
    """A checked `RunConfig` from a YAML file and `key=value` overrides. A `UserError` names the
    key, its origin and the remedy. `${oc.env:NAME}` is read from the environment.

    Packages that the file names are trusted, because the file is the user's own. The config of a
    run folder may come from a stranger. For such a file, `trusted` lists the packages to trust.
    """
    try:
        path = configs.find(path)
        if not path.exists():
            raise UserError(f"{path}: no such config{nearest(path.stem, configs.names())}")
    except OSError as error:  # for example, a name that is too long
        raise UserError(f"{path}: can not be read ({error.strerror})") from None
    origin = str(path)
    pairs = [_pair(text) for text in overrides]
    tree = yaml_values.parse(yaml_values.file_text(path), origin)
    named = dict(pairs).get("method") or yaml_values.scalar_at(tree, "method")
    if named is None:
        raise UserError(f"{origin}: 'method' is missing or not text; every config names its method")
    source = shown(f"method={named}") if "method" in dict(pairs) else origin
    own = [package_of(named)] if trusted is None else trusted
    model = _located(named, own, source).Config
    text = _text_keys(model)
    if _gives_options(pairs) or yaml_values.node_at(tree, "data.options"):
        data = dict(pairs).get("data.name") or yaml_values.scalar_at(tree, "data.name") or ""
        text |= _text_options(data, [package_of(data)] if trusted is None else trusted)
    values = yaml_values.construct(tree, origin, text)
    run = _read(values, pairs, origin, model, text)
    if trusted is None:
        trust(*filter(is_own, [run.data.name]))
        if hasattr(run.model, "completed"):  # facts from files that the user's config names
            run = replace(run, model=run.model.completed())
    return run


def from_dict(values: Any, origin: str, trusted: Iterable[str] = ()) -> RunConfig:
    """A checked `RunConfig` from plain containers, as in a checkpoint. Texts are literal, and the
    method lies in the project's own packages or in a `trusted` one.
    """
    values = yaml_values.plain(values, origin)
    trust(*trusted)
    try:
        if not isinstance(values, dict):
            raise Wrong("", "a config is a mapping of keys to values")
        if not isinstance(values.get("method"), str):
            raise Wrong("", "'method' is missing or not text; every config names its method")
        return _built(values, _located(values["method"], trusted, origin).Config)
    except Wrong as wrong:
        raise UserError(f"{origin}: {wrong}") from None


def override(run: RunConfig, overrides: list[str], origin: str) -> RunConfig:
    """A checked config, changed by `key=value` overrides such as another data.root."""
    pairs = [_pair(text) for text in overrides]
    values = _values(run)
    named = dict(pairs).get("method", run.method)
    model = _located(named, [package_of(run.method)], origin).Config
    text, data = _text_keys(model), dict(pairs).get("data.name", "")
    if _gives_options(pairs):
        text |= _text_options(data or run.data.name, [package_of(data)])
    made = _read(yaml_values.literals(values), pairs, origin, model, text)
    trust(*filter(is_own, [data]))
    named_keys = [key for key, _ in pairs]
    left = [k for k in run.data.doubtful if not any(_concerns(f"data.{k}", n) for n in named_keys)]
    return replace(made, written=run.written, data=replace(made.data, doubtful=tuple(left)))


def from_a_stranger(values: Any, origin: str, trusted: Iterable[str] = ()) -> RunConfig:
    """A checked `RunConfig` from a file of unknown origin, such as a checkpoint.

    Texts are literal, the method lies in the project's own packages or in a `trusted` one, nothing
    is downloaded, and nothing is uploaded to another entity. When the data are opened,
    `core.data.doubtful` checks the keys of data that no override has set.
    """
    run = from_dict(values, origin, trusted)
    data = replace(
        run.data,
        download=False,
        workers=min(run.data.workers, max(8, os.cpu_count() or 1)),
        memory=min(run.data.memory, DataConfig().memory),
        doubtful=doubtful.ALL,
    )
    return replace(run, data=data, wandb=replace(run.wandb, entity="", artifacts=False))


def method_class(run: RunConfig) -> type[Method]:
    """The class that a checked config names."""
    return locate(run.method, [package_of(run.method)])


def for_information(run: RunConfig) -> RunConfig:
    """The config with the augmentation of the information probe."""
    return replace(run, data=replace(run.data, augment=run.data.probe_augment or run.data.augment))


def to_dict(run: RunConfig) -> dict[str, Any]:
    """The config as plain containers; paths from the environment stay as the YAML file has them."""
    values = _values(run)
    for key, text in _as_written(run, values):
        yaml_values.put(values, key, text)
    return values


def to_yaml(run: RunConfig) -> str:
    """The config as YAML that `read` accepts. Text that looks like an interpolation is escaped."""
    values = yaml_values.escaped(_values(run))
    for key, text in _as_written(run, _values(run)):
        yaml_values.put(values, key, text)
    return yaml_values.dump(values)


def _as_written(run: RunConfig, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The unchanged paths that came from the environment, as the YAML file has them."""
    for key, (value, text) in run.written.items():
        if _at(values, key) == value:
            yield key, text


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (equals and key.strip()):
        raise UserError(f"{shown(text)}: an override is key=value, such as optim.lr=0.3")
    # wandb=MODE is short for wandb.mode=MODE
    return "wandb.mode" if key.strip() == "wandb" else key.strip(), value


def _sectioned(values: Any) -> Any:
    """Values in which `wandb: MODE` is the section `wandb: {mode: MODE}`."""
    mode = values.get("wandb") if isinstance(values, dict) else None
    return {**values, "wandb": {"mode": mode}} if isinstance(mode, str) else values


def _read(
    values: Any, pairs: list[tuple[str, str]], origin: str, model: type, text: set[str]
) -> RunConfig:
    """The run of a file's values and overrides. A `UserError` names an override that is wrong."""
    if not isinstance(values, dict):
        raise UserError(f"{origin}: a config is a mapping of keys to values")
    try:
        return _resolved(_with(values, pairs, text), model)
    except Wrong as wrong:
        guilty = [pair for pair in pairs if _concerns(pair[0], wrong.key)]
        if not guilty and pairs and _is_fine(values):
            guilty = pairs
        blamed = " ".join(shown(f"{key}={value}") for key, value in guilty) or origin
        raise UserError(f"{blamed}: {wrong}") from None


def _with(values: dict[str, Any], pairs: list[tuple[str, str]], text: set[str]) -> dict[str, Any]:
    """A copy of the values with overrides. Keys of type text get the literal text; other keys get
    the value that YAML reads.
    """
    values = _sectioned(yaml_values.plain(values, "the config"))
    for key, written in pairs:
        value: Any = yaml_values.Literal(written)
        if key not in text:
            quoted = shown(f"{key}={written}")
            inner = {name.removeprefix(f"{key}.") for name in text if name.startswith(f"{key}.")}
            value = yaml_values.construct(yaml_values.parse(written, quoted), quoted, inner)
        yaml_values.put(values, key, value)
    return values


def _is_fine(values: dict[str, Any]) -> bool:
    """Whether a file's values make a run without overrides."""
    try:
        _resolved(values, locate(values["method"], [package_of(values["method"])]).Config)
    except (Wrong, UserError, KeyError, AttributeError):
        return False
    return True


def _concerns(key: str, wrong: str) -> bool:
    return f"{wrong}.".startswith(f"{key}.") or f"{key}.".startswith(f"{wrong}.")


def _resolved(values: dict[str, Any], model: type) -> RunConfig:
    try:
        values, written = yaml_values.resolve(values)
    except ValueError as error:
        raise _wrong("", error) from None
    run = _built(values, model)
    plain = _values(run)
    kept = {key: (_at(plain, key), text) for key, text in written.items() if key in PLACES}
    return replace(run, written=kept)


def _located(name: str, trusted: Iterable[str], origin: str) -> type[Method]:
    try:
        return locate(name, trusted)
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None


def _built(values: dict[str, Any], model: type) -> RunConfig:
    """Plain values, with literal texts, as the dataclasses that check them. Raises `Wrong`."""
    for key in ("method", "folder"):
        if not isinstance(values.get(key), str):
            raise Wrong("", f"'{key}' is missing or not text; every config names its {key}")
    values = _sectioned(values)
    values = {k: {} if value is None and k in SECTIONS else value for k, value in values.items()}
    _refuse_unknown(values, RunConfig, model)
    kinds = get_type_hints(RunConfig) | {"model": model}
    built = {name: _checked(kinds[name], values.get(name, {}), f"{name}.") for name in SECTIONS}
    top = _checked(_Top, {key: value for key, value in values.items() if key not in SECTIONS}, "")
    try:
        return RunConfig(**vars(top), **built)
    except ValueError as error:
        raise _wrong("", error) from None


def _values(run: RunConfig) -> dict[str, Any]:
    """All keys with their values, as plain containers."""
    values = {name: getattr(run, name) for name in KEYS}
    values |= {name: asdict(values[name]) for name in SECTIONS}
    del values["data"]["doubtful"]
    return yaml_values.plain(values, "the config")


def _at(values: dict[str, Any], key: str) -> Any:
    for name in key.split("."):
        values = values[name]
    return values


def _checked(kind: Any, values: Any, prefix: str) -> Any:
    """One section as its dataclass. OmegaConf checks types, and the dataclass checks ranges."""
    try:
        return OmegaConf.to_object(OmegaConf.merge(_structured(kind), for_omegaconf(values)))
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise Wrong(f"{prefix}{error.full_key or ''}".rstrip("."), reason) from None
    except (ValueError, OverflowError) as error:
        raise _wrong(prefix, error) from None


@cache  # it takes milliseconds; `OmegaConf.merge` copies it
def _structured(kind: Any) -> DictConfig:
    made: DictConfig = OmegaConf.structured(kind)
    return made


def _wrong(prefix: str, error: Exception) -> Wrong:
    """A dataclass's message "key: what is wrong" as `Wrong`."""
    key, colon, reason = str(error).partition(": ")
    named = colon and all(part.isidentifier() for part in key.split("."))
    return Wrong(f"{prefix}{key}", reason) if named else Wrong(prefix.rstrip("."), str(error))


def _hints(kind: type, model: type) -> dict[str, Any]:
    """The keys of a section and their types."""
    hints = get_type_hints(kind)
    return {
        key: model if kind is RunConfig and key == "model" else hint
        for key, hint in hints.items()
        if not (kind in (RunConfig, DataConfig) and key in NO_KEYS)
    }


def _dotted(model: type, kind: type = RunConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All keys of a config and their types."""
    for key, hint in _hints(kind, model).items():
        yield f"{prefix}{key}", hint
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _dotted(model, hint, f"{prefix}{key}.")


def _text_keys(model: type) -> set[str]:
    return {key for key, hint in _dotted(model) if hint is str}


def _gives_options(pairs: list[tuple[str, str]]) -> bool:
    return any(key == "data" or f"{key}.".startswith("data.options.") for key, _ in pairs)


def _text_options(name: str, trusted: Iterable[str]) -> set[str]:
    """The keys of `data.options` with type text, for the data set of that name."""
    try:
        kind = locate_source(name, trusted).Config
    except UserError:  # raised again when the data are opened
        return set()
    return {key for key, hint in _dotted(kind, kind, "data.options.") if hint is str}


def _refuse_unknown(values: dict[Any, Any], kind: type, model: type, prefix: str = "") -> None:
    hints = _hints(kind, model)
    for key, value in values.items():
        if key not in hints:
            said = f"unknown key {shown(prefix + key)}{_suggested(key, prefix, model)}"
            raise Wrong(f"{prefix}{key}"[:SHOWN], said)
        inner = hints[key]
        if isinstance(inner, type) and is_dataclass(inner):
            if not isinstance(value, dict):
                raise Wrong(f"{prefix}{key}", f"is a section of keys, not {shown(value)}")
            _refuse_unknown(value, inner, model, f"{prefix}{key}.")


def _suggested(key: str, prefix: str, model: type) -> str:
    """The nearest key of all sections; keys of the same section have priority."""
    known = [name for name, _ in _dotted(model)]
    matcher = difflib.SequenceMatcher(b=key[:SHOWN].rpartition(".")[2])

    def likeness(name: str) -> float:
        section, _, last = name.rpartition(".")
        matcher.set_seq1(last)
        return matcher.ratio() + (0.15 if f"{section}." == prefix or section + prefix == "" else 0)

    best = max(known, key=likeness)
    here = [
        name.removeprefix(prefix)
        for name in known
        if name.rpartition(".")[0] + "." == prefix or not prefix and "." not in name
    ]
    return f" (did you mean '{best}'?)" if likeness(best) > 0.6 else nearest("", here)
