"""Reads YAML by the 1.2 core schema into nodes that know the file and line they were written at."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from postgrad.config.fault import ConfigError, Fault, RefusedError


@dataclass(frozen=True, slots=True)
class Node:
    """One value as written, with everything inside it."""

    value: Any
    """A dict of nodes, a list of nodes, or a scalar."""
    place: str


class _Core(yaml.SafeLoader):
    """YAML 1.2's core schema; PyYAML reads 1.1, where 1e-4 is text, `no` is false and 010 is eight."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  (PyYAML's own attribute)


_TAG = "tag:yaml.org,2002:"
for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Core.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)


def _integer(text: str) -> int:
    return int(text[2:], 8 if text[1] == "o" else 16) if text[:2] in ("0o", "0x") else int(text)


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": lambda text: text.lower() == "true",
    "int": _integer,
    "float": lambda text: float(re.sub(r"\.(inf|nan)", r"\1", text.lower())),
    "str": str,
}
_DEEPEST, _LARGEST = 40, 20_000
"""Beyond these a document is an alias bomb, not a config."""


@lru_cache(maxsize=32)
def parse(text: str, name: str, *, lines: bool = True) -> tuple[Node, tuple[Fault, ...]]:
    """One document as nodes, with the faults that leave the rest readable; others raise RefusedError."""
    faults: list[Fault] = []
    count = 0

    def place(mark: Any) -> str:
        return f"{name}:{mark.line + 1}" if lines and mark is not None else name

    def refuse(mark: Any, message: str) -> RefusedError:
        return RefusedError([Fault(place(mark), "", message)])

    def build(node: Any, where: str, above: tuple[str, ...]) -> Node:
        nonlocal count
        count += 1
        if len(above) > _DEEPEST or count > _LARGEST:
            raise refuse(node.start_mark, f"more than {_LARGEST} values, or nested deeper than {_DEEPEST}")
        if isinstance(node, yaml.MappingNode):
            return Node(build_section(node, above), where)
        if isinstance(node, yaml.SequenceNode):
            items = [build(item, place(item.start_mark), (*above, str(i))) for i, item in enumerate(node.value)]
            return Node(items, where)
        read = _SCALARS.get(node.tag.removeprefix(_TAG))
        try:
            if read is None:
                raise ValueError
            return Node(read(node.value), where)
        except ValueError:
            tag = node.tag.replace(_TAG, "!!")
            raise refuse(node.start_mark, f"cannot read {node.value!r} with the tag {tag}: leave the tag out") from None

    def build_section(node: Any, above: tuple[str, ...]) -> dict[str, Node]:
        section: dict[str, Node] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise refuse(key_node.start_mark, "a key must be one word")
            key, where = key_node.value, place(key_node.start_mark)
            if key in section:
                dotted = ".".join((*above, key))
                faults.append(Fault(where, dotted, f"'{dotted}' is given twice, first at {section[key].place}"))
            section[key] = build(value_node, where, (*above, key))
        return section

    try:
        document = yaml.compose(text, Loader=_Core)
        root = Node({}, name) if document is None else build(document, name, ())
    except yaml.MarkedYAMLError as error:
        raise refuse(error.problem_mark, f"not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise refuse(None, f"not YAML: {' '.join(str(error).split())}") from error
    return root, tuple(faults)


def plain(node: Node) -> Any:
    """The value without its places."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    return [plain(child) for child in node.value] if isinstance(node.value, list) else node.value


def got(node: Node) -> str:
    """The value as a fault names it."""
    value = node.value
    if isinstance(value, dict):
        return "a section of keys"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        return f"{value if len(value) <= 60 else value[:57] + '...'!r} (text)"
    return json.dumps(value)


def read_yaml(text: str, name: str) -> Any:
    """Plain values of one YAML document, by the same rules as a config."""
    try:
        node, faults = parse(text, name)
    except RefusedError as error:
        raise ConfigError(error.args[0]) from None
    if faults:
        raise ConfigError(faults)
    return plain(node)
