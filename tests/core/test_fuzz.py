"""Any config gives a checked RunConfig or one line that names what is wrong, but never a traceback.

TWOBOUNDS_FUZZ=2000 tries 2,000 configs instead of the few that a test has time for.
"""

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from core.errors import UserError
from core.method import Method, locate
from core.run import config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
METHODS = sorted({str(OmegaConf.load(path)["method"]) for path in CONFIGS})
PLAIN = settings(
    max_examples=int(os.environ.get("TWOBOUNDS_FUZZ", "100")),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)

words = st.text("abcdefghij_.:{}$[]'\"%\n ?0é\0", max_size=8)
numbers = st.one_of(
    st.sampled_from([0, -1, 1, 2, 10**20, 0.5, -0.5, float("nan"), float("inf"), 1e308]),
    st.integers(-9, 99),
    st.floats(),
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    words,
    st.sampled_from(["???", "${seed}", "${nothing}", "${oc.env:HOME}", "1e-3", "nan"]),
)
anything = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(words, inner, max_size=2)),
    max_leaves=4,
)


def fitting(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type, inside and outside of its range, and sometimes of another type."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return section(hint)
    if get_origin(hint) in (list, tuple):
        return st.lists(fitting(get_args(hint)[0]), max_size=3)
    kinds: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(-2, 300),
        float: st.floats(-1, 3),
        bool: st.booleans(),
        str: words,
    }
    return kinds.get(hint, anything)


@functools.cache
def section(kind: type) -> st.SearchStrategy[Any]:
    """A mapping for a dataclass: some keys have their defaults, a few have other values or types,
    and sometimes a key is unknown.
    """
    defaults = {
        f.name: st.just(f.default)
        for f in dataclasses.fields(kind)
        if f.default is not dataclasses.MISSING
    }
    values = {
        name: st.one_of(fitting(hint), fitting(hint), fitting(hint), anything)
        for name, hint in get_type_hints(kind).items()
    }
    one = st.sampled_from(sorted(values)).flatmap(
        lambda name: st.fixed_dictionaries({name: values[name]})
    )
    changes = st.one_of(
        st.just({}),
        one,
        one,
        st.builds(lambda a, b: a | b, one, one),
        st.dictionaries(words, leaves, max_size=1),
    )
    return st.builds(lambda a, b: a | b, st.fixed_dictionaries({}, optional=defaults), changes)


@st.composite
def runs(draw: st.DrawFn) -> Any:
    """A whole config. Most name a method that exists."""
    method = draw(st.one_of(st.sampled_from(METHODS), st.sampled_from(METHODS), words, leaves))
    values = draw(section(config.RunConfig))
    if not isinstance(values, dict):
        return values
    values |= {
        "folder": draw(st.one_of(st.just("runs/fuzz"), st.just("runs/fuzz"), leaves)),
        "method": method,
    }
    if isinstance(method, str) and method in METHODS and draw(st.integers(0, 4)):
        values["model"] = draw(section(locate(method).Config))
    return values


def accepted(read: Any) -> config.RunConfig | None:
    """The config, or None if it was refused with one line."""
    try:
        run = read()
    except UserError as error:
        assert str(error).strip()  # core.errors.exit_cleanly prints it as one line
        return None
    assert isinstance(run, config.RunConfig)
    assert issubclass(locate(run.method), Method) and isinstance(
        run.model, locate(run.method).Config
    )
    return run


def test_a_config_is_checked_or_refused_in_one_line() -> None:
    taken: list[bool] = []

    @PLAIN
    @given(runs())
    def look(values: Any) -> None:
        run = accepted(lambda: config.from_dict(values, "fuzz.yaml"))
        if run:  # an accepted config is written and read back without a change
            assert repr(config.to_dict(config.from_dict(config.to_dict(run), "again"))) == repr(
                config.to_dict(run)
            )
        taken.append(run is not None)

    look()
    print(f"configs: {sum(taken)} taken, {len(taken) - sum(taken)} refused")
    assert 0.02 < sum(taken) / len(taken) < 0.9, "the fuzzer sees good and bad configs"


KEYS = [
    "seed",
    "folder",
    "method",
    "model",
    "data",
    "optim.lr",
    "optim.epochs",
    "trainer.devices",
    "data.sprites.train",
    "model.temperature",
]
overrides = st.lists(
    st.one_of(
        words, st.builds(lambda key, value: f"{key}={value}", st.sampled_from(KEYS), leaves | words)
    ),
    max_size=3,
)


@PLAIN
@given(st.sampled_from(CONFIGS), overrides)
def test_an_override_is_taken_or_refused_in_one_line(
    path: Path, given_overrides: list[str]
) -> None:
    accepted(lambda: config.read(path, given_overrides))


@PLAIN
@given(st.one_of(words, st.binary(max_size=30), st.text(max_size=60)))
def test_a_file_of_anything_is_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(
        content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    )
    assert accepted(lambda: config.read(path, [])) is None
