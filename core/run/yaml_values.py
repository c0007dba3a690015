"""YAML as plain values of limited size: files, `key=value` overrides, and interpolations.

A key of type text gets the literal text, such as `007` or `1e5`, and not a number.
"""

import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import yaml

# YAML 1.1, but 1e-3 is a number and duplicate keys are errors
from omegaconf._utils import get_omega_conf_dumper, get_yaml_loader

from core.errors import UserError, shown

BYTES = 2**16  # of a config file or an override; 40 times the size of our largest config
NODES = 10_000  # keys and values, with aliases counted at every use
DEPTH = 32
TEXT = 10_000  # characters of one value
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:bool")
STRING = "tag:yaml.org,2002:str"
INTERPOLATION = re.compile(r"\\\$\{|\$\{([^{}]*)\}|\$\{")  # \${ is the text ${
ENVIRONMENT = re.compile(r"\s*oc\.env\s*:\s*([^,\s]+)\s*(?:,(.*))?", re.DOTALL)


class Literal(str):
    """Text that is not an interpolation, even if it looks like one."""


def file_text(path: Path) -> str:
    """The text of a config file; `UserError` if it can not be read or is too long."""
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder, but a config is a YAML file; see configs/")
        if not path.is_file():
            raise UserError(f"{path}: no such config; see configs/")
        with open(path, "rb") as file:
            content = file.read(BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: can not be read ({reason}); see configs/") from None
    if len(content) > BYTES:
        raise UserError(f"{path}: is longer than {BYTES:,} bytes, so it is not a config")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not UTF-8; save the config as UTF-8 text"
        raise UserError(f"{path}: {problem}") from None


def parse(text: str, origin: str) -> yaml.Node | None:
    """The tree of a YAML text, of limited size even with aliases expanded; None if it is empty."""
    if len(text) > BYTES:
        raise UserError(f"{origin}: is longer than {BYTES:,} characters")
    try:
        tree = yaml.compose(text, Loader=get_yaml_loader())
        if tree is not None and _size(tree, {}, 0) > NODES:
            raise UserError(f"{origin}: its aliases stand for more than {NODES:,} values")
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{origin}: line {line}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{origin}: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise UserError(f"{origin}: its lists or mappings are nested too deep") from None
    return tree


def construct(tree: yaml.Node | None, origin: str, text_keys: Collection[str] = ()) -> Any:
    """The plain values of a tree; at `text_keys`, scalars such as `yes` and 007 stay text."""
    if tree is None:
        return None
    _keep_text(tree, "", text_keys)
    loader = get_yaml_loader()("")
    try:
        return plain(loader.construct_document(tree), origin)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, AttributeError) as error:
        problem = getattr(error, "problem", None) or str(error)
        raise UserError(f"{origin}: {(problem.splitlines() or ['no YAML'])[0]}") from None
    except RecursionError:
        raise UserError(f"{origin}: its lists or mappings are nested too deep") from None


def node_at(tree: yaml.Node | None, key: str) -> yaml.Node | None:
    """The node at a dotted key; None if there is none."""
    for name in key.split("."):
        pairs = tree.value if isinstance(tree, yaml.MappingNode) else []
        tree = next((value for found, value in reversed(pairs) if found.value == name), None)
    return tree


def scalar_at(tree: yaml.Node | None, key: str) -> str | None:
    """The literal text at a dotted key; None if it is not a scalar."""
    found = node_at(tree, key)
    return found.value if found is not None and _is_scalar(found) else None


def plain(values: Any, origin: str) -> Any:
    """A copy of plain values, of limited size; a `UserError` names any other value."""
    left = [NODES]

    def checked(value: Any, place: str, depth: int) -> Any:
        left[0] -= 1
        if left[0] < 0 or depth > DEPTH:
            raise UserError(f"{origin}: holds more values, or deeper nesting, than configs have")
        if value is None or type(value) in (bool, float):
            return value
        if type(value) is int:
            if abs(value) > 2**64:
                at = f"{place}: " if place else ""
                raise UserError(f"{origin}: {at}{shown(value)} is too large for any key")
            return value
        if type(value) in (str, Literal):
            if len(value) > TEXT:
                raise UserError(
                    f"{origin}: {place}: is text of {len(value):,} characters, but only"
                    f" {TEXT:,} are allowed"
                )
            return value
        if type(value) in (list, tuple):
            return [checked(item, place, depth + 1) for item in value]
        if isinstance(value, dict):
            inner = f"{place}." if place else ""
            return {
                _key(key, origin, place): checked(item, f"{inner}{key}", depth + 1)
                for key, item in dict.items(value)
            }
        named = f"{place or 'it'}: {type(value).__name__}"
        raise UserError(f"{origin}: {named} is not a value of a config")

    return checked(values, "", 0)


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the value at a dotted key, in place; a mapping is merged into an existing mapping."""
    *above, last = key.split(".")
    for name in above:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    if isinstance(value, dict) and isinstance(values.get(last), dict):
        for name, inner in value.items():
            put(values[last], name, inner)
    else:
        values[last] = value


def resolve(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values with their interpolations replaced, and {key: original text} of those that came from
    the environment.

    `${a.b}` is the value at another key; `${oc.env:NAME}` or `${oc.env:NAME,default}` is a variable
    of the environment. Anything else raises ValueError("key: what is wrong").
    """
    resolver = _Resolver(values)
    made = resolver.walk(values, "")
    return made, resolver.from_environment


class _Resolver:
    """Replaces interpolations, once per key, so that nested references take little time."""

    def __init__(self, values: dict[str, Any]):
        self.values = values
        self.from_environment: dict[str, str] = {}  # key -> original text
        self._made: dict[str, Any] = {}
        self._trail: list[str] = []  # keys that are being resolved; each needs the next one

    def walk(self, value: Any, place: str) -> Any:
        inner = f"{place}." if place else ""
        if isinstance(value, dict):
            return {key: self.walk(item, f"{inner}{key}") for key, item in value.items()}
        if isinstance(value, list):
            return [self.walk(inner, f"{place}.{i}") for i, inner in enumerate(value)]
        return self._text(value, place) if isinstance(value, str) else value

    def _text(self, text: str, place: str) -> Any:
        if "${" not in text or isinstance(text, Literal):
            return str(text)
        if place in self._trail or len(self._trail) > DEPTH:
            raise ValueError(f"{place}: {shown(text)} refers to itself")
        if place not in self._made:
            self._trail.append(place)
            parts: list[Any] = []
            end = 0
            for match in INTERPOLATION.finditer(text):
                parts += [text[end : match.start()], self._reference(match, place, text)]
                end = match.end()
            parts = [part for part in [*parts, text[end:]] if part != ""]
            made = parts[0] if len(parts) == 1 else "".join(map(str, parts))
            if isinstance(made, str) and len(made) > TEXT:
                raise ValueError(
                    f"{place}: becomes text of {len(made):,} characters, but only {TEXT:,} are"
                    " allowed"
                )
            self._made[place] = made
            self._trail.pop()
        return self._made[place]

    def _reference(self, match: re.Match[str], place: str, text: str) -> Any:
        if match[0] == "\\${":
            return "${"
        body = match[1]
        if body is None:
            raise ValueError(f"{place}: '${{' starts an interpolation without an end")
        if environment := ENVIRONMENT.fullmatch(body):
            found = os.environ.get(environment[1], environment[2])
            if found is None:
                raise ValueError(f"{place}: the environment has no {shown(environment[1])}")
            self.from_environment[place] = text
            return found
        if not re.fullmatch(r"\w+(\.\w+)*", body):
            raise ValueError(
                f"{place}: {shown(match[0])} is refused; an interpolation is ${{another.key}} or"
                " ${oc.env:NAME}"
            )
        there: Any = self.values
        for name in body.split("."):
            if not (isinstance(there, dict) and name in there):
                raise ValueError(f"{place}: {shown(match[0])} names no key of the config")
            there = there[name]
        if isinstance(there, dict | list):
            raise ValueError(f"{place}: {shown(match[0])} is a section or a list, not a value")
        made = self._text(there, body) if isinstance(there, str) else there
        if body in self.from_environment:
            self.from_environment[place] = text
        return made


def literals(values: Any) -> Any:
    """Values whose texts are all `Literal`."""
    return _each_text(values, Literal)


def escaped(values: Any) -> Any:
    """Values in which `resolve` finds no interpolation: `${` becomes `\\${`."""
    return _each_text(values, lambda text: text.replace("${", "\\${"))


def dump(values: dict[str, Any]) -> str:
    """Values as YAML that `parse` and `construct` accept."""
    options = {"default_flow_style": False, "allow_unicode": True, "sort_keys": False}
    return str(yaml.dump(values, Dumper=get_omega_conf_dumper(), **options))


def _each_text(values: Any, change: Callable[[str], Any]) -> Any:
    if isinstance(values, dict):
        return {key: _each_text(value, change) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_each_text(value, change) for value in values]
    return change(values) if isinstance(values, str) else values


def _is_scalar(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag != "tag:yaml.org,2002:null"


def _keep_text(node: yaml.Node, place: str, text_keys: Collection[str]) -> None:
    if isinstance(node, yaml.ScalarNode):
        if place in text_keys and node.style is None and node.tag in NUMBERS:
            node.tag = STRING
    elif isinstance(node, yaml.MappingNode) and place.count(".") < DEPTH:
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                _keep_text(value, f"{place}.{key.value}" if place else key.value, text_keys)


def _key(key: Any, origin: str, place: str) -> str:
    if type(key) is not str or len(key) > 200:
        raise UserError(f"{origin}: {place or 'it'}: {shown(key)} is not a key; keys are words")
    return key


def _size(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """The number of nodes of a tree with its aliases expanded."""
    if depth > DEPTH:
        raise RecursionError
    if id(node) not in known:
        known[id(node)] = 0
        inner = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_size(part, known, depth + 1) for part in inner)
    elif known[id(node)] == 0:
        raise RecursionError  # an alias inside of its own value
    return known[id(node)]
