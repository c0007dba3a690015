"""All keys of a config with type, default and meaning, from the dataclasses and their comments.

A field's meaning is the text of the comment lines above it and of the comment behind it.
"""

import inspect
import io
import re
import textwrap
import tokenize
import types
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import configs
from core.method import locate
from core.run.config import NO_KEYS, RunConfig


class Key(NamedTuple):
    """One key of a config."""

    name: str
    kind: str
    default: str
    meaning: str


def sections() -> dict[str, list[Key]]:
    """Section -> its keys: the top level, then each section, then `model` of each method that a
    packaged config names.
    """
    hints = get_type_hints(RunConfig)
    inner: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    top = [key for key in keys_of(RunConfig) if key.name not in (*inner, "model")]
    found = {"run": top}
    found |= {name: keys_of(kind, f"{name}.") for name, kind in inner.items()}
    for method in methods():
        found[f"model of {method}"] = keys_of(locate(method).Config, "model.")
    return found


def methods() -> list[str]:
    """The methods of the packaged configs."""
    texts = [(configs.CONFIGS / f"{name}.yaml").read_text("utf-8") for name in configs.names()]
    return sorted({m[1] for text in texts for m in re.finditer(r"^method: (\S+)", text, re.M)})


def keys_of(kind: type, prefix: str = "", held: Any = None) -> list[Key]:
    """The keys of a dataclass, with those of the sections in it. `held`: an instance of `kind`
    whose values are shown as defaults. It is given for a section inside of a section, because the
    outer section may change its defaults.
    """
    said, hints = meanings(kind), get_type_hints(kind)
    made: list[Key] = []
    for field in fields(kind):
        if field.name in NO_KEYS:
            continue
        hint = hints[field.name]
        if is_dataclass(hint) and isinstance(hint, type):
            if prefix:
                inner = _default(field) if held is None else getattr(held, field.name)
                made += keys_of(hint, f"{prefix}{field.name}.", inner)
            if not prefix:
                made.append(Key(field.name, "section", "", said.get(field.name, "")))
            continue
        default = _default(field) if held is None else getattr(held, field.name)
        shown = "needed" if default in ("???", ...) else _yaml(default)
        name = f"{prefix}{field.name}"
        made.append(Key(name, _type(hint), shown, said.get(field.name, "")))
    return made


def _default(field: Field[Any]) -> Any:
    """The default of a field; ... if it has none."""
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else ...


def meanings(kind: type) -> dict[str, str]:
    """Field -> its comment, for a dataclass and its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if is_dataclass(base) and isinstance(base, type):
            found |= _comments(textwrap.dedent(inspect.getsource(base)))
    return found


def _comments(source: str) -> dict[str, str]:
    lines: dict[int, str] = {}  # line -> comment
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0]] = re.sub(r"^#\s*|\s*type: ignore.*", "", token.string)
    found = {}
    for number, line in enumerate(source.splitlines(), 1):
        match = re.match(r"    (\w+): \S", line)
        if not match:
            continue
        above: list[str] = []
        at = number - 1
        while at in lines and source.splitlines()[at - 1].lstrip().startswith("#"):
            above.insert(0, lines[at])
            at -= 1
        parts = [*above, *([lines[number]] if number in lines else [])]
        found[match[1]] = " ".join(parts)
    return found


def _type(hint: Any) -> str:
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "any"}
    if get_origin(hint) in (Union, types.UnionType):
        return ", ".join(_type(part) for part in get_args(hint) if part is not type(None))
    if get_origin(hint) in (list, tuple):
        return "list"
    if get_origin(hint) is dict:
        return "mapping"
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _yaml(value: Any) -> str:
    """A default as YAML writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def lines(found: dict[str, list[Key]]) -> Iterable[str]:
    """The keys as text for a terminal."""
    for section, keys in found.items():
        yield f"\n{section}"
        for key in keys:
            yield f"  {key.name} = {key.default}   ({key.kind})"
            yield from (f"      {line}" for line in textwrap.wrap(key.meaning, 90))


def markdown(found: dict[str, list[Key]]) -> str:
    """The page docs/settings.md."""
    parts = [HEAD]
    for section, keys in found.items():
        parts.append(f"\n## {section}\n\n| key | type | default | meaning |\n|---|---|---|---|\n")
        for key in keys:
            meaning = key.meaning.replace("|", "·").replace("<", "&lt;")
            parts.append(f"| `{key.name}` | {key.kind} | `{key.default}` | {meaning} |\n")
    return "".join(parts)


HEAD = """# All keys of a config

Any key can stand in a YAML file or on the command line: `twobounds pretrain simclr_sprites
optim.lr=0.3`. `twobounds keys` prints this list, `twobounds keys optim` prints one section, and
`twobounds keys lr` prints all keys with that word. An unknown key is refused; the message names the
nearest key of all sections. `null` means that no value is set; the meaning of the key says what
happens then. `twobounds keys --markdown` writes this page.
"""
