"""Lays one layer over what the lower layers gave: sections merge key by key, an override sets one key."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType

from pydantic import BaseModel

from postgrad.config.document import Node, got, parse
from postgrad.config.fault import Fault, RefusedError
from postgrad.config.layers import ENVIRONMENT_PREFIX, Override, Source, Text, Variable
from postgrad.config.schema import keys, members, starred


def apply(source: Source, root: Node, model: type[BaseModel]) -> tuple[Node, tuple[Fault, ...]]:
    """The merged layers with one more on top, and the faults that leave it readable; others raise RefusedError."""
    if isinstance(source, Override | Variable):
        return _set(source, root, model), ()
    if isinstance(source, Text):
        text = source.text
    else:
        try:
            text = source.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise RefusedError([Fault(str(source), "", f"cannot read the file: {reason}")]) from error
    layer, faults = parse(text, str(source))
    if layer.value is None:
        return root, faults
    if not isinstance(layer.value, dict):
        raise RefusedError([Fault(str(source), "", f"got {got(layer)}, wanted lines of `key: value`")])
    return Node(_merge(root, layer).value, root.place), faults


def _merge(base: Node | None, top: Node) -> Node:
    if base is None or not isinstance(base.value, dict) or not isinstance(top.value, dict):
        return top
    merged = dict(base.value)
    for key, child in top.value.items():
        merged[key] = _merge(merged.get(key), child)
    return Node(merged, top.place)


def _set(source: Override | Variable, root: Node, model: type[BaseModel]) -> Node:
    place = str(source)
    if isinstance(source, Override):
        dotted, equals, raw = source.text.partition("=")
    else:
        dotted = source.name.removeprefix(ENVIRONMENT_PREFIX).replace("__", ".").lower()
        equals, raw = "=", source.value

    def refuse(message: str) -> RefusedError:
        return RefusedError([Fault(place, dotted, message)])

    if not equals or not dotted:
        raise refuse("wanted key=value, such as rl.learning_rate=1e-5")
    if not raw.strip():
        raise refuse(f"no value for '{dotted}': write null to remove it, or \"''\" for an empty text")

    known = keys(model).get(starred(dotted))
    is_text = known is not None and members(known.annotation) - {NoneType} == {str}
    if is_text and raw not in ("null", "~") and raw[0] not in "'\"":
        leaf = Node(raw, place)  # `system_prompt=Answer: ...` is text, whatever YAML makes of the colon
    else:
        leaf, faults = parse(raw, place, lines=False)
        if faults:
            raise RefusedError(faults)

    def graft(base: Node | None, path: Sequence[str]) -> Node:
        if not path:
            return _merge(base, leaf)
        head, rest = path[0], path[1:]
        if base is not None and isinstance(base.value, list):
            if not (head.isdecimal() and int(head) < len(base.value)):
                last = len(base.value) - 1
                raise refuse(f"'{dotted}': no item '{head}' in a list of {len(base.value)}; wanted 0 to {last}")
            items = list(base.value)
            items[int(head)] = graft(items[int(head)], rest)
            return Node(items, base.place)
        section = dict(base.value) if base is not None and isinstance(base.value, dict) else {}
        section[head] = graft(section.get(head), rest)
        return Node(section, place)

    return graft(root, dotted.split("."))


def without(node: Node, path: Sequence[str]) -> Node:
    """The node without the key at the end of a path."""
    head, rest = path[0], path[1:]
    if isinstance(node.value, list):
        items = list(node.value)
        items[int(head)] = without(items[int(head)], rest)
        return Node(items, node.place)
    section = dict(node.value)
    if rest:
        section[head] = without(section[head], rest)
    else:
        del section[head]
    return Node(section, node.place)
